"""Sources and sinks: the only place that knows file names and formats."""

from .base import Record, Sink, Source, Target
from .files import (
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
from .memory import ArraySink, ArraySource, array_source

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
