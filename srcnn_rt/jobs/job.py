"""`Job`: one file to upscale, where its result goes and what the result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..image.info import AS_SAID, Reading
from ..io.protocols import Source
from ..io.registry import open_source, page_count
from ..options import OutputOptions
from .journal import SUFFIX, fingerprint

PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Job:
    """One file to upscale.

    Attributes
    ----------
    source, target : Path
        Files to read and to write.
    scale : int
        Scale factor.
    identity : mapping
        JSON values of everything else that the result depends on. Only an equal job can be resumed.
    output : OutputOptions
        How the result is written.
    overwrite : bool
        Replace `target` if it exists, and discard what an interrupted run left.
    resume : bool
        Continue what an interrupted run left, if there is anything.
    page : int, optional
        The only page to upscale, from 1; all pages if None.
    max_pixels : int, optional
        Refuse images with more pixels.
    reading : Reading
        How to interpret the samples of the source.
    """

    source: Path
    target: Path
    scale: int
    identity: Mapping[str, Any]
    output: OutputOptions
    overwrite: bool = False
    resume: bool = False
    page: int | None = None
    max_pixels: int | None = None
    reading: Reading = AS_SAID

    @property
    def partial(self) -> Path:
        """The growing file."""
        return self.target.with_name(self.target.name + PARTIAL)

    @property
    def journal(self) -> Path:
        """The journal of the growing file."""
        return self.partial.with_name(self.partial.name + SUFFIX)

    def facts(self) -> dict[str, Any]:
        """Return everything that the bytes of the result depend on, as JSON values."""
        return {
            **self.identity,
            "source": fingerprint(self.source, beside=True),
            "page": self.page,
            "scale": self.scale,
            "compress": self.output.compress,
            "cog": self.output.cog,
            "quality": self.output.quality,
            **self.reading.facts(),
        }

    def page_numbers(self) -> range:
        """Return the numbers of the pages to upscale, from 1. Raises as `page_count` does."""
        # Pages are not counted if one is chosen: a stack behind one directory can only be read by --page 1.
        if self.page is not None:
            return range(self.page, 1 + self.page)
        return range(1, 1 + page_count(self.source))

    def open(self, page: int) -> Source:
        """Open a page of the source, from 1; the caller closes it. Raises as `open_source` does."""
        return open_source(self.source, page, self.max_pixels, self.reading)
