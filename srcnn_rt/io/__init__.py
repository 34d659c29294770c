"""Reading and writing images: sources, sinks and file formats."""

from .in_memory import ArraySink, ArraySource, array_source
from .protocols import Record, Sink, Source, Target
from .registry import (
    IMAGE_SUFFIXES,
    check_holds,
    check_output,
    create_target,
    open_source,
    page_count,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "ArraySink",
    "ArraySource",
    "Record",
    "Sink",
    "Source",
    "Target",
    "array_source",
    "check_holds",
    "check_output",
    "create_target",
    "open_source",
    "page_count",
]
