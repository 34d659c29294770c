"""Super-resolution of images of any size: seam-free, in bounded memory.

>>> from srcnn_rt import Engine
>>> hr = Engine("srcnn-915-x2").upscale(lr)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .engine import Engine, upscale
from .errors import (
    ArgumentError,
    DeviceError,
    ImageError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    ProviderError,
    RangeError,
    RuntimeMissingError,
    SourceMissingError,
    SrcnnError,
    TrainingError,
)
from .execution.executor import Progress
from .image.info import ImageInfo
from .jobs.report import Report
from .models.bundled import list_models
from .models.spec import ModelSpec
from .options import OutputOptions

if TYPE_CHECKING:
    from .jobs.estimate import Estimate

__all__ = [
    "ArgumentError",
    "DeviceError",
    "Engine",
    "Estimate",
    "ImageError",
    "ImageInfo",
    "ModelError",
    "ModelSpec",
    "OutOfMemoryError",
    "OutputError",
    "OutputOptions",
    "Progress",
    "ProviderError",
    "RangeError",
    "Report",
    "RuntimeMissingError",
    "SourceMissingError",
    "SrcnnError",
    "TrainingError",
    "__version__",
    "list_models",
    "upscale",
]


def __getattr__(name: str) -> Any:
    if name == "Estimate":  # its module is imported with the first estimate: start-up time counts
        from .jobs.estimate import Estimate

        return Estimate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
