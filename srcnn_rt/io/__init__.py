"""Sources and sinks: the only place that knows file names and formats."""

from .in_memory import ArraySink, ArraySource, array_source
from .protocols import Record, Sink, Source, Target
from .registry import (
    IMAGE_SUFFIXES,
    TIFF_COMPRESSIONS,
    Output,
    check_holds,
    check_output,
    create_target,
    is_image,
    is_image_name,
    make_folder,
    open_source,
    page_count,
)

__all__ = [
    "IMAGE_SUFFIXES",
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
    "is_image",
    "is_image_name",
    "make_folder",
    "open_source",
    "page_count",
]
