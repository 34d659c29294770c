"""Super-resolution of images of any size: seam-free, in bounded memory.

>>> from srcnn_rt import Engine
>>> hr = Engine("srcnn-915-x2").upscale(lr)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .engine import Engine, upscale
from .errors import (
    ArgumentError,
    CancelledError,
    ClosedError,
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
from .io.opened import OpenImage, open_image
from .jobs.report import Report
from .models.bundled import list_models
from .models.spec import ModelSpec
from .options import ArrayOptions, FileOptions, OutputOptions

if TYPE_CHECKING:
    from .jobs.estimate import Estimate
    from .jobs.job import Job

__all__ = [
    "ArgumentError",
    "ArrayOptions",
    "CancelledError",
    "ClosedError",
    "DeviceError",
    "Engine",
    "Estimate",
    "FileOptions",
    "ImageError",
    "ImageInfo",
    "Job",
    "ModelError",
    "ModelSpec",
    "OpenImage",
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
    "open_image",
    "upscale",
]

if not TYPE_CHECKING:  # a checker would take any name for one of this package

    def __getattr__(name: str) -> Any:
        # Their modules are imported with the first job: start-up time counts.
        if name == "Estimate":
            from .jobs.estimate import Estimate

            return Estimate
        if name == "Job":
            from .jobs.job import Job

            return Job
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
