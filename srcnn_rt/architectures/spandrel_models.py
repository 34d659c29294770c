"""Networks that spandrel tells by their keys: some forty published architectures."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from . import checkpoints

VALUES = "0..1"  # black and white of all of them, gray ones too
_MIN = 16  # pixels a side of an example


@dataclass(frozen=True, slots=True)
class Published:
    """A network with its weights.

    Attributes
    ----------
    name : of the architecture
    network : (N, C, H, W) in [0, 1] to the same of `scale` times the size
    multiple, minimum : sizes that it takes
    """

    name: str
    network: nn.Module
    scale: int
    channels: int
    multiple: int
    minimum: int

    @property
    def example(self) -> int:
        """A side of images that it takes; an odd one, so that what is padded and cut off is traced."""
        minimum = max(self.minimum, _MIN)
        side = -(-minimum // self.multiple) * self.multiple
        return side if side % 2 else side + self.multiple


class _Called(nn.Module):
    """A network of which one image is asked, whatever else it takes and gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x.clone())  # some scale it in place
        first: Tensor = out[0] if isinstance(out, (tuple, list)) else out
        return first


def is_there() -> bool:
    """Return whether spandrel is installed."""
    return util.find_spec("spandrel") is not None


def find(weights: Mapping[str, Tensor]) -> Published | None:
    """Return the network whose weights these are, or None if spandrel is not there or knows none.

    Raises
    ------
    ModelError
        If it is known and cannot be run as one image in and one out.
    """
    if not is_there() or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        return None
    spandrel = _spandrel()
    for inner in checkpoints.without_prefixes(dict(weights)):
        try:
            found = spandrel.MAIN_REGISTRY.load({k: v.float() for k, v in inner.items()})
        except spandrel.UnsupportedModelError:
            continue
        except Exception as error:  # what its forty loaders raise where shapes do not fit
            first = " ".join(str(error).split())[:200]
            raise ModelError(f"spandrel takes it for a network that it is not: {first}") from error
        return _checked(found, spandrel)
    return None


def _checked(found: Any, spandrel: Any) -> Published:
    """Refuse what is no network from one image to another, or is not called with the image alone."""
    name = found.architecture.name
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.purpose == "FaceSR":
        raise ModelError(f"{name} does not make one image of another")
    if found.input_channels != found.output_channels or found.input_channels not in (1, 3):
        raise ModelError(
            f"{name} makes {found.output_channels} channels of {found.input_channels}: 1 of 1 or 3 of 3 "
            "are needed"
        )
    settle(found.model)
    wanted = found.size_requirements
    published = Published(
        name,
        _Called(found.model.eval()),
        found.scale,
        found.input_channels,
        max(wanted.multiple_of, 1),
        max(wanted.minimum, 1),
    )
    image = torch.rand(1, published.channels, published.example, published.example)
    with torch.no_grad():
        # spandrel knows of some what is to be done to their images before and after.
        same = torch.allclose(found(image.clone()), published.network(image).clamp(0, 1), atol=1e-5)
    if not same:
        raise ModelError(f"{name} is more than its network: its images are changed before or after it")
    return published


def settle(network: nn.Module) -> None:
    """Fold convolutions that a network folds anew in every run (SPAN's) once: torch's exporter ends there."""
    for module in network.modules():
        if callable(getattr(module, "update_params", None)):
            module.update_params()  # type: ignore[operator]
            module.update_params = _nothing  # type: ignore[assignment]


def _nothing() -> None:
    """Stand in for what was done already."""


def _spandrel() -> Any:
    """Import spandrel, also where torchvision is built for another torch than the one that is there.

    Two of its networks (LaMa, RestoreFormer) use two functions of torchvision, and neither can be tiled.
    """
    before = set(sys.modules)
    try:
        importlib.import_module("torchvision")
    except Exception:  # a missing library, an operator that is not there ...
        for name in {m for m in sys.modules if m.partition(".")[0] == "torchvision"} - before:
            del sys.modules[name]  # what it left half imported
        with _stand_in():
            return importlib.import_module("spandrel")
    return importlib.import_module("spandrel")


@contextmanager
def _stand_in() -> Iterator[None]:
    """Give what is imported meanwhile the names that it takes from torchvision."""
    functions = types.ModuleType("torchvision.transforms.functional")
    vars(functions).update(InterpolationMode=None, rotate=None, normalize=None)
    names = ("torchvision", "torchvision.transforms")
    modules = {**{name: types.ModuleType(name) for name in names}, functions.__name__: functions}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
