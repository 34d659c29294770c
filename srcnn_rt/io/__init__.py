"""Sources and sinks: the only place that knows file names and formats."""

from .base import Sink, Source
from .files import (
    PICTURE_SUFFIXES,
    TIFF_COMPRESSIONS,
    check_output,
    create_sink,
    is_picture_name,
    make_folder,
    open_source,
    replacing,
)
from .memory import ArraySink, ArraySource

__all__ = [
    "PICTURE_SUFFIXES",
    "TIFF_COMPRESSIONS",
    "ArraySink",
    "ArraySource",
    "Sink",
    "Source",
    "check_output",
    "create_sink",
    "is_picture_name",
    "make_folder",
    "open_source",
    "replacing",
]
