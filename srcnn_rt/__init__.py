"""Super-resolution of pictures of any size: seam-free, in bounded memory.

>>> from srcnn_rt import Engine
>>> hr = Engine("srcnn-915-x2").upscale(lr)  # doctest: +SKIP
"""

from ._version import __version__
from .engine import Engine, upscale
from .errors import (
    ArgumentError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    PictureError,
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
    "ModelError",
    "ModelSpec",
    "OutOfMemoryError",
    "OutputError",
    "PictureError",
    "ProviderError",
    "RangeError",
    "Report",
    "RuntimeMissingError",
    "SourceMissingError",
    "SrcnnError",
    "__version__",
    "upscale",
]
