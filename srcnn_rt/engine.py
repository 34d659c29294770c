"""`Engine`: upscale arrays and files with one model."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import filejob, geometry, job, preflight, program, spec, stream, trials, tuning
from ._version import __version__
from .errors import ArgumentError
from .estimates import Estimate
from .filejob import Job, Pages
from .geometry import Plan, Span
from .io import ArraySink, Output, Record, Sink, Source, array_source, open_source
from .io.arrays import SlicedSink, SlicedSource
from .io.base import Closing
from .job import Progress
from .margins import check_layout
from .outcome import Report, peak_memory
from .picture import PictureInfo
from .runtime import Loader, Setup, load_whole
from .session import PRECISIONS, PROVIDERS, available_threads
from .spec import ModelSpec
from .trials import Trial

# HR side of a tile for tile="auto" where nothing was measured: small enough for the activations
# to stay in the caches, large enough for the margins not to matter.
AUTO_TILE_HR = 256
# Models of so many multiply-accumulates a pixel are bound by arithmetic, not by memory: caches matter
# less to them than what windows compute twice.
HEAVY = 30_000
HEAVY_TILE_HR = 512

# With tile="auto", a picture of so many HR pixels is worth the measurement before it.
TUNE_FROM = 10**9
WHOLE = 2**40  # a tile no picture fills


class Engine(Closing):
    """Upscales pictures of any size with one model; the result does not depend on `tile`.

    May be used from several threads at once, and as a context manager. Touches no global
    state: no environment, no logging, no threads of other libraries.

    Parameters
    ----------
    model : str, Path or bytes
        A bundled name (``srcnn-rt models`` lists them), ``"bicubic-x2"`` … ``"bicubic-x8"``,
        the path of an ONNX file, or such a file's bytes.
    provider : {"auto", "cpu", "cuda", "openvino"}
        ``"auto"`` takes CUDA where it works, else ONNX Runtime on the CPU, or OpenVINO where
        `precision` is ``"fast"``. A provider asked for by name is used or `ProviderError` is raised.
    tile : int or "auto"
        Side of a tile in LR pixels, margins not counted, at least 8. ``"auto"`` takes what `tune`
        measured; where it never did, 256 HR pixels (512 for heavy models), or measures before a
        picture of over 1,000 Mpx.
    threads : int, optional
        Threads of the network; all available processors if None.
    value_range : str, optional
        What the model calls black and white where its file does not say: ``"0..255"``,
        ``"-1..1"``, or ``"mean=A,B,C std=D,E,F"``.
    whole : bool
        Run the model once on the whole picture, which must then fit into memory; also for
        models whose reach is unbounded, which cannot be tiled. `tile` is ignored.
    precision : {"exact", "fast"}
        ``"exact"`` computes in float32. ``"fast"`` computes in bfloat16 (OpenVINO), and is refused
        where that is not at hand, or the model would lose more than 0.02 dB.

    Raises
    ------
    SourceMissingError, ModelError, ProviderError, RuntimeMissingError, ArgumentError

    Examples
    --------
    >>> import numpy as np
    >>> from srcnn_rt import Engine
    >>> with Engine("srcnn-915-x2", provider="cpu") as engine:
    ...     engine.upscale(np.zeros((30, 40, 3), np.uint8)).shape
    (60, 80, 3)
    """

    def __init__(
        self,
        model: str | Path | bytes = "srcnn-915-x2",
        provider: str = "auto",
        tile: int | Literal["auto"] = 512,
        threads: int | None = None,
        value_range: str | None = None,
        whole: bool = False,
        precision: str = "exact",
    ) -> None:
        for name, value, known in (("provider", provider, PROVIDERS), ("precision", precision, PRECISIONS)):
            if value not in known:
                raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if threads is not None and threads < 1:
            raise ArgumentError(f"threads must be at least 1, got {threads}")
        if tile != "auto" and (isinstance(tile, bool) or not isinstance(tile, int)):
            raise ArgumentError(f"tile must be a whole number of LR pixels or 'auto', got {tile!r}")
        data, self._spec = load_whole(model) if whole else spec.load(model)
        if value_range is not None:
            values = spec.ValueRange.parse(value_range)
            if len(values.gain) not in (1, self._spec.channels):
                raise ArgumentError(
                    f"a value range needs 1 or {self._spec.channels} numbers, got {len(values.gain)}"
                )
            self._spec = replace(self._spec, range=values)
        ready = program.Program(data, self._spec, False)
        if not math.isnan(self._spec.facts.macs):  # or it was not analysed, and runs as it is
            ready = program.prepare(data, self._spec)
            self._spec = ready.spec
        if tile != "auto" and tile < geometry.MIN_TILE:
            raise ArgumentError(f"tile must be at least {geometry.MIN_TILE} LR pixels, got {tile}")
        self._precision, self._whole, self._asked = precision, whole, tile
        self._hash = hashlib.sha256(ready.data).hexdigest()[:16]
        self._threads = threads or available_threads()
        self._loader = Loader(ready, provider, precision, self._threads, whole)
        network, workers, each = self._loader.open()
        self._key = tuning.key_for(ready.data, network.provider, precision, self._threads)
        choice = tuning.recall(self._key) if tile == "auto" and not whole else None
        self._untuned = choice is None and tile == "auto" and not whole
        if choice is not None:
            if (choice.workers, choice.threads) != (workers, each):
                network, workers, each = self._loader.open((choice.workers, choice.threads))
            tile = self._lr(choice.tile)
        elif tile == "auto":
            tile = self._auto
        side = WHOLE if whole else geometry.ceil_to(tile, self._spec.period)
        self._setup = Setup(network, workers, each, side)
        self._provider = network.provider
        self._pool = ThreadPoolExecutor(max(self._threads, workers), "srcnn-work")
        self._tuning = threading.Lock()
        self._rates: dict[Any, float] = {}
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def scale(self) -> int:
        """HR pixels an LR pixel."""
        return self._spec.scale

    @property
    def margin(self) -> int:
        """LR pixels a core needs around it, derived from the model's graph."""
        return self._spec.margin

    @property
    def tile(self) -> int:
        """Side of a tile in LR pixels, as used: a multiple of the model's period."""
        return self._setup.tile

    @property
    def provider(self) -> str:
        """The provider really active: ``"cpu"``, ``"cuda"`` or ``"openvino"``."""
        return self._provider

    @property
    def precision(self) -> str:
        """``"exact"`` or ``"fast"``."""
        return self._precision

    def close(self) -> None:
        """Let go of the model. Later calls of `upscale` raise `ArgumentError`."""
        self._closed = True
        self._pool.shutdown()
        del self._setup

    def upscale(
        self,
        image: NDArray[Any],
        *,
        bands: bool = False,
        nodata: float | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Upscale an array.

        Parameters
        ----------
        image : (H, W) or (H, W, C) uint8, uint16 or float32, any strides
            C = 1 gray, 2 gray + alpha, 3 R, G, B, 4 R, G, B, A (not premultiplied), other
            counts are bands. Integers use their full range; float32 is nominally [0, 1]
            and neither clipped nor rounded.
        bands : bool
            Upscale each channel on its own whatever C is.
        nodata : float, optional
            Samples of this value are no data (of RGB, pixels whose three samples are): they do not
            enter the network, and each becomes s x s of the same. NaN and infinity are treated so in any
            case.
        progress : callable, optional
            Called with (HR pixels done, HR pixels in all).

        Returns
        -------
        (s·H, s·W) or (s·H, s·W, C) of the same dtype

        Raises
        ------
        ArgumentError
            If the shape or dtype is another one.
        """
        picture = array_source(image, bands=bands, nodata=nodata)
        sink = ArraySink(picture.info.scaled(self.scale))
        self._process(picture, sink, progress)
        return sink.array if np.ndim(image) == 3 else sink.array[:, :, 0]

    def upscale_into(
        self,
        source: Any,
        target: Any,
        *,
        axes: str | None = None,
        bands: bool = False,
        nodata: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Upscale anything that can be sliced into anything that slices can be assigned to.

        Zarr and HDF5 arrays, memory maps, dask arrays: read window by window, written in whole chunks of
        the target, each once, in bounded memory.

        Parameters
        ----------
        source : has ``shape``, ``dtype`` (uint8, uint16 or float32) and slices that NumPy can take
        target : has ``shape``, s times the source's, the same ``dtype``, and slice assignment
        axes : the letters y, x and c in the order of the axes of both; None for ``"yx"`` or ``"yxc"``
        bands, nodata, progress : as in `upscale`

        Raises
        ------
        ArgumentError
            If a shape or dtype is another one.
        """
        picture = SlicedSource(source, axes, bands=bands, nodata=nodata)
        sink = SlicedSink(target, picture.info.scaled(self.scale), self.scale, axes)
        self._process(picture, sink, progress)

    def upscale_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        page: int | None = None,
        compress: str = "deflate",
        cog: bool = False,
        quality: int | None = None,
        max_pixels: int | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Upscale a picture file. TIFF streams in bounded memory; other formats are held whole.

        The result grows as ``TARGET.partial`` with a journal beside it. A job that ends before it is
        complete, by Ctrl-C, a full disk or a killed process, can be gone on with.

        GDAL's block cache is this process's own affair: by default it takes up to 5% of the
        machine's memory; the command line sets GDAL_CACHEMAX to 32 MB.

        Parameters
        ----------
        source : a TIFF, PNG, JPEG, WebP, AVIF, JPEG XL or BMP
        target : its suffix decides the format
        overwrite : replace `target` if it exists, and what an interrupted run left
        resume : go on with what an interrupted run left, if there is any. Source, model and settings
            must be the same.
        page : the only one of a TIFF of several pages that is done, from 1; all if None
        compress : of a TIFF, without loss: ``"deflate"``, which every reader has, ``"zstd"``, twice as
            fast to write, ``"lzw"`` or ``"none"``
        cog : make a Cloud-Optimised GeoTIFF with overviews
        quality : 1 to 100 of a JPEG, WebP, AVIF or JPEG XL; None for 95 of a JPEG and no loss in others
        max_pixels : refuse larger pictures; 2³⁰ if None for formats that are not streamed
        progress : called with (HR pixels done, HR pixels in all)

        Raises
        ------
        SourceMissingError, PictureError, OutputError
            Naming the file and the rule; also if the result surely does not fit on the disk or into
            memory. Nothing is left under the name `target`.
        """
        source, target = Path(source), Path(target)
        start = time.perf_counter()
        output = Output(compress, cog, quality, self._threads)
        todo = Job(source, target, self.scale, self._identity(), output, overwrite, resume, page, max_pixels)
        preflight.check(todo, self._spec, self._setup)
        with Pages(todo, lambda info: check_layout(self._spec, info.layout)) as pages:
            preflight.check(todo, self._spec, self._setup, pages.infos)
            self._ready_for(sum(info.shape[0] * info.shape[1] for info in pages.infos))
            filejob.upscale(todo, pages, self._plan_for, self._run, progress)
        infos = pages.infos
        seconds = time.perf_counter() - start
        (h, w), s = infos[0].shape, self.scale
        pixels = sum(info.shape[0] * info.shape[1] for info in infos) * s * s
        return Report(
            source=str(source),
            target=str(target),
            source_size=(w, h),
            target_size=(w * s, h * s),
            pages=len(infos),
            layout=str(infos[0].layout),
            dtype=infos[0].dtype.name,
            scale=s,
            model=self._spec.name,
            provider=self.provider,
            precision=self.precision,
            tile=min(self.tile, max(h, w)),
            seconds=round(seconds, 3),
            mpx_per_s=round(pixels / 1e6 / seconds, 3),
            peak_memory=peak_memory(),
        )

    def estimate(self, source: str | Path, target: str | Path, **options: Any) -> Estimate:
        """Tell what `upscale_file` of the same arguments would take: bytes, memory, seconds.

        Takes up to about half a second for the first picture of a kind, to time a few windows. Nothing is
        written. What cannot fit is not refused: see `estimates.refuse`.

        Parameters
        ----------
        options : those of `job`

        Raises
        ------
        SourceMissingError, PictureError, OutputError
            If the source cannot be read.
        """
        if self._closed:
            raise ArgumentError("the engine is closed")
        todo = self.job(source, target, **options)
        return preflight.estimate(todo, self._spec, self._setup, self._pool, self._rates)

    def job(
        self,
        source: str | Path,
        target: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        page: int | None = None,
        compress: str = "deflate",
        cog: bool = False,
        quality: int | None = None,
        max_pixels: int | None = None,
    ) -> Job:
        """Return what `upscale_file` would do with the same arguments, without doing it.

        Two jobs of equal ``facts()`` have the same result.
        """
        output = Output(compress, cog, quality, self._threads)
        return Job(
            Path(source),
            Path(target),
            self.scale,
            self._identity(),
            output,
            overwrite,
            resume,
            page,
            max_pixels,
        )

    def stream(
        self,
        source: str | Path | Any,
        *,
        region: tuple[slice, slice] | None = None,
        page: int = 1,
        max_pixels: int | None = None,
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[Any]]]:
        """Upscale a picture and hand out its parts as they are finished, in bounded memory.

        Parameters
        ----------
        source : a picture file, or an array as `upscale` or `upscale_into` takes
        region : (rows, columns) of the source, without steps; only this part is read and upscaled,
            and is, pixel for pixel, that part of the whole result
        page : of a TIFF, from 1
        max_pixels : as in `upscale_file`

        Yields
        ------
        ((rows, columns), part)
            Where the part belongs in the result (of the region, if there is one), as slices, and the
            part, (h, w, C) of the source's type: ``out[window] = part``. Parts come row by row, left to
            right, and cover the result once. Work goes on while the caller is busy with a part, a few
            parts ahead.

        Raises
        ------
        SourceMissingError, PictureError, ArgumentError
        """
        with ExitStack() as stack:
            if isinstance(source, str | Path):
                picture: Source = stack.enter_context(open_source(Path(source), page, max_pixels))
            elif isinstance(source, np.ndarray):
                picture = array_source(source, bands=False, nodata=None)
            else:
                picture = SlicedSource(source)
            check_layout(self._spec, picture.info.layout)
            spans = stream.spans_of(region, picture.info.shape)
            run = partial(self._process, picture, progress=None, region=spans)
            yield from stream.parts(picture.info.scaled(self.scale), run, spans, self.scale)

    def tune(self, progress: Callable[[Trial], None] | None = None) -> list[Trial]:
        """Measure how this machine runs the model fastest, use it, and keep it for next time.

        Takes some seconds. Whether windows are computed one after the other by all threads or one
        by each is tried, then tiles from 96 to 768 HR pixels. It is kept in the user's cache folder, or where
        the environment variable ``SRCNN_RT_CACHE`` says, and found there by ``tile="auto"``.

        Parameters
        ----------
        progress : called with every trial

        Returns
        -------
        All trials, the fastest last.

        Raises
        ------
        ArgumentError
            If the engine runs whole pictures.
        """
        if self._whole:
            raise ArgumentError("an engine that runs whole pictures has no tile to be tuned")
        with self._tuning:
            return self._tune(progress)

    def _tune(self, progress: Callable[[Trial], None] | None) -> list[Trial]:
        layouts = {(self._setup.workers, self._setup.threads)}
        if self._provider == "cpu":
            layouts |= {(self._threads, 1), (1, self._threads)}
        setups = [Setup(*self._loader.open(layout), self._auto) for layout in sorted(layouts)]
        self._setup, found = trials.fastest(self._spec, setups, self._lr, self._pool, progress)
        self._untuned = False
        chosen = tuning.Choice(self._setup.tile * self.scale, self._setup.workers, self._setup.threads)
        tuning.remember(self._key, chosen)
        return found

    @property
    def _auto(self) -> int:
        """The tile, LR pixels, where nothing was measured."""
        heavy = self._spec.facts.macs >= HEAVY
        return self._lr(HEAVY_TILE_HR if heavy else AUTO_TILE_HR)

    def _lr(self, hr: int) -> int:
        """Return a tile of about `hr` HR pixels in LR pixels, a multiple of the period."""
        return geometry.ceil_to(max(geometry.MIN_TILE, hr // self.scale), self._spec.period)

    def _identity(self) -> dict[str, Any]:
        """Return what a result depends on beside its source, as a journal keeps it."""
        return {
            "version": __version__,
            "model": f"{self._spec.name} {self._hash}",
            "provider": self._provider,
            "precision": self._precision,
            "tile": "whole" if self._whole else self._asked,
            "range": [*self._spec.range.gain, *self._spec.range.offset],
        }

    def _process(
        self,
        source: Source,
        sink: Sink,
        progress: Progress | None,
        region: tuple[Span, Span] | None = None,
    ) -> None:
        h, w = source.info.shape if region is None else (span.size for span in region)
        self._ready_for(h * w)
        job.process(source, sink, self._spec, self._setup, self._pool, progress, region=region)

    def _plan_for(self, info: PictureInfo, sink: Sink) -> Plan:
        return job.plan_for(self._spec, self._setup, info, sink)

    def _run(
        self,
        source: Source,
        sink: Sink,
        plan: Plan,
        first: int,
        written: Callable[[int, Record], None],
        progress: Progress | None,
    ) -> None:
        job.process(
            source, sink, self._spec, self._setup, self._pool, progress,
            plan=plan, first=first, written=written,
        )  # fmt: skip

    def _ready_for(self, pixels: int) -> None:
        """Tune before the first large picture, of so many LR pixels."""
        if self._closed:
            raise ArgumentError("the engine is closed")
        if self._untuned and pixels * self.scale**2 >= TUNE_FROM:
            with self._tuning:
                if self._untuned:  # not by another thread meanwhile
                    self._tune(None)


def upscale(image: NDArray[Any], model: str | Path = "srcnn-915-x2", **options: Any) -> NDArray[Any]:
    """Upscale one array; `options` are those of `Engine`.

    For more than one picture make an `Engine` and keep it.
    """
    with Engine(model, **options) as engine:
        return engine.upscale(image)
