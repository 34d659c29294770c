"""What the engine asks of a picture to read and of a picture to write."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from ..geometry import Span
from ..picture import PictureInfo


class Source(Protocol):
    """A picture to read.

    Attributes
    ----------
    info : its size, layout, type and metadata
    by_rows : whether reading a few rows costs the same at any width (striped files)
    in_memory : whether nothing has to be read or decoded any more
    """

    info: PictureInfo
    by_rows: bool
    in_memory: bool

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        """Return rows `y` and columns `x` as (h, w, C), of ``info.dtype``, any strides."""

    def close(self) -> None:
        """Release the file; safe to call twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sink(Protocol):
    """A picture to write, in whole blocks, each once.

    Attributes
    ----------
    block : (h, w) in HR pixels; writes start at its multiples and end there or at the
        picture's edge
    max_bytes : how much one write should hold at most, None for no limit
    in_memory : whether `write` has nothing to do
    """

    block: tuple[int, int]
    max_bytes: int | None
    in_memory: bool

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        """Return an (h, w, C) array to fill for that place; its content is undefined.

        It may be the one of two calls ago, so that one must be written by then.
        """

    def write(self, y: Span, x: Span, block: NDArray[Any]) -> None:
        """Store a filled buffer."""

    def close(self) -> None:
        """Finish the file; raises if anything could not be stored."""

    def abort(self) -> None:
        """Let go of the file without finishing it; never raises."""


class Closing:
    """Mixin: ``with`` closes."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StripCache:
    """Reads a striped source one full-width strip at a time and serves parts of it.

    Decoding a strip costs the same for any part of it, so each is decoded once. At most
    the last strip is kept.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rows: Span | None = None
        self._strip: NDArray[Any] | None = None

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        """As `Source.read`; the result is a view of the kept strip."""
        if self._strip is None or self._rows != y:
            self._strip = None  # let go of the old one before the new one is there
            self._strip = self._source.read(y, Span(0, self._source.info.shape[1]))
            self._rows = y
        return self._strip[:, x.start : x.stop]
