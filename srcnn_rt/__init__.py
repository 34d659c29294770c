"""Super-resolution of images of any size: seam-free, in bounded memory.

>>> from srcnn_rt import Engine
>>> hr = Engine("srcnn-915-x2").upscale(lr)  # doctest: +SKIP
"""

from ._version import __version__
from .engine import Engine, upscale
from .errors import (
    ArgumentError,
    ImageError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    ProviderError,
    RangeError,
    RuntimeMissingError,
    SourceMissingError,
    SrcnnError,
)
from .jobs.report import Report
from .models.spec import ModelSpec

__all__ = [
    "ArgumentError",
    "Engine",
    "ImageError",
    "ModelError",
    "ModelSpec",
    "OutOfMemoryError",
    "OutputError",
    "ProviderError",
    "RangeError",
    "Report",
    "RuntimeMissingError",
    "SourceMissingError",
    "SrcnnError",
    "__version__",
    "upscale",
]
