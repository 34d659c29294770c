"""Sources and sinks: the only place that knows file names and formats."""

from .in_memory import ArraySink, ArraySource, array_source
from .protocols import Record, Sink, Source, Target
from .registry import (
    PICTURE_SUFFIXES,
    TIFF_COMPRESSIONS,
    Output,
    check_holds,
    check_output,
    create_target,
    is_picture,
    is_picture_name,
    make_folder,
    open_source,
    page_count,
)

__all__ = [
    "PICTURE_SUFFIXES",
    "TIFF_COMPRESSIONS",
    "ArraySink",
    "ArraySource",
    "Output",
    "Record",
    "Sink",
    "Source",
    "Target",
    "array_source",
    "check_holds",
    "check_output",
    "create_target",
    "is_picture",
    "is_picture_name",
    "make_folder",
    "open_source",
    "page_count",
]
