"""An image file that stays open for many regions, and whatever else can be upscaled in parts as a source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system.forking import PerProcess
from ..errors import ArgumentError, ClosedError
from ..image.info import Nodata, Reading
from ..options import ArrayLayout
from ..tiling.geometry import Span
from .in_memory import array_source
from .protocols import Closing, Source
from .registry import open_source
from .streams import LocalImage, Readable, is_path, local_image


class OpenImage(Closing):
    """An image file that is open. Safe to use from several threads, which take turns in reading.

    `open_image` returns it, and `Engine.stream` and `Engine.upscale_into` take it in place of a path. Its
    header is read once, and so are the samples that decide how the whole image is normalised. The file must
    not change meanwhile. A forked child opens it again, because two processes would move one file position;
    so does who unpickles one that was opened by a path, a URL or bytes.

    Attributes
    ----------
    name : str
        Its path, or what messages call an image without one.
    info : ImageInfo
        Size, layout, sample type and metadata.
    """

    def __init__(
        self,
        local: LocalImage,
        source: Source,
        opening: Callable[[], Source],
        files: ExitStack,
        elsewhere: Callable[[], OpenImage] | None,
    ) -> None:
        self._local, self.name, self.info = local, local.name, source.info
        self.by_rows, self.in_memory, self.on_device = source.by_rows, source.in_memory, source.on_device
        self._file = PerProcess(_Open(source, files), lambda inherited: _Open(opening(), ExitStack()))
        self._closed, self._elsewhere = False, elsewhere

    def __reduce__(self) -> tuple[Callable[[], OpenImage], tuple[()]]:
        if self._closed:
            raise ClosedError(f"{self.name}: the image is closed")
        if self._elsewhere is None:
            raise ArgumentError(f"{self.name}: only an image opened by its path, URL or bytes can be pickled")
        return self._elsewhere, ()

    def __repr__(self) -> str:
        h, w = self.info.shape
        state = ", closed" if self._closed else ""
        return f"<OpenImage {self.name!r}: {w} x {h}, {self.info.layout} {self.info.dtype}{state}>"

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        """Return a window as (h, w, C) samples; see `protocols.Source.read`."""
        with self._reading() as source:
            return source.read(y, x)

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        """Return a window of the validity mask, (h, w)."""
        with self._reading() as source:
            return source.read_mask(y, x)

    def close(self) -> None:
        """Close the file. Reading it afterwards raises `ClosedError`."""
        self._closed = True
        if (opened := self._file.take()) is not None:
            with opened.reading:
                opened.source.close()
                opened.files.close()

    @contextmanager
    def _reading(self) -> Iterator[Source]:
        """Give the file to one thread."""
        with self._local.named():
            try:
                opened = self._file.get()
            except LookupError:
                raise ClosedError(f"{self.name}: the image is closed") from None
            with opened.reading:
                if self._closed:
                    raise ClosedError(f"{self.name}: the image is closed")
                yield opened.source


@dataclass(frozen=True)
class _Open:
    """A file that one process has open, and what belongs to it."""

    source: Source
    files: ExitStack
    reading: threading.Lock = field(default_factory=threading.Lock)


def open_image(
    source: str | Path | bytes | bytearray | memoryview | Readable,
    *,
    page: int = 1,
    max_pixels: int | None = None,
    bands: bool = False,
    nodata: Nodata = None,
    classes: bool = False,
) -> OpenImage:
    """Open an image file once, to upscale many regions of it.

    Parameters
    ----------
    source : str, Path, bytes-like, file-like or rasterio dataset
        A TIFF, PNG, JPEG, WebP, AVIF, JPEG XL, BMP or Zarr image; its content decides. What has no name is
        taken as by `Engine.upscale_file`.
    page : int
        Of a TIFF or Zarr, from 1.
    max_pixels, bands, nodata, classes
        As in `FileOptions`.

    Returns
    -------
    OpenImage
        To be closed, or used as a context manager.

    Raises
    ------
    SourceMissingError, ImageError, ArgumentError

    Examples
    --------
    >>> import numpy as np
    >>> from srcnn_rt import Engine, open_image
    >>> with Engine() as engine, open_image("big.tif") as image:  # doctest: +SKIP
    ...     tile = np.empty((512, 512, 3), np.uint8)
    ...     engine.upscale_into(image, tile, region=(slice(0, 256), slice(4096, 4352)))
    """
    reading = Reading(bands, nodata, classes)
    with ExitStack() as stack:
        local = stack.enter_context(local_image(source))
        opening = partial(open_source, local.path, page, max_pixels, reading)
        elsewhere = None
        if is_path(source) or isinstance(source, str | bytes):
            given = Path(source).absolute() if is_path(source) else source
            elsewhere = partial(
                open_image,
                given,
                page=page,
                max_pixels=max_pixels,
                bands=bands,
                nodata=nodata,
                classes=classes,
            )
        return OpenImage(local, opening(), opening, stack.pop_all(), elsewhere)


def is_file(source: Any) -> bool:
    """Return whether a source is a file, open or not, and not an array."""
    return isinstance(source, OpenImage | str | Path)


def source_of(
    source: Any,
    *,
    layout: ArrayLayout | None = None,
    image: int | None = None,
    look: bool = False,
    page: int = 1,
    max_pixels: int | None = None,
    nodata: Nodata = None,
    **options: Any,
) -> AbstractContextManager[Source]:
    """Return a context that gives a path, an open image or an array-like object as a source.

    Parameters
    ----------
    source : str, Path, OpenImage or array_like
        A path is opened, and closed with the context.
    layout : str, optional
        Of an array, as in `ArrayOptions`.
    image : int, optional
        Which image of an array with several.
    look : bool
        As in `array_source`.
    page, max_pixels
        Of a file.
    nodata, **options
        `bands`, `alpha` and `classes`, as for arrays; a file says itself whether it has alpha.

    Raises
    ------
    SourceMissingError, ImageError, ArgumentError
    """
    if is_file(source):
        name = source.name if isinstance(source, OpenImage) else source
        if options.pop("alpha", None) is not None:
            raise ArgumentError(f"{name}: alpha is for arrays; a file says itself what its channels are")
    if isinstance(source, OpenImage):
        said = [k for k, value in {"nodata": nodata, **options}.items() if value not in (None, False)]
        if said or (page, max_pixels) != (1, None):
            raise ArgumentError(f"{source.name}: is open already; give {(said or ['page'])[0]} to open_image")
        return nullcontext(source)
    if isinstance(source, str | Path):
        return open_image(source, page=page, max_pixels=max_pixels, nodata=nodata, **options)
    value = None if nodata == "none" else nodata
    return array_source(source, layout, image=image, look=look, nodata=value, **options)
