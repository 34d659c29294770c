"""The forty architectures that the optional package spandrel recognises by their keys."""

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

VALUE_RANGE = "0..1"  # of all of them, including grayscale ones
_MIN_SIDE = 16  # of an example image


@dataclass(frozen=True, slots=True)
class SpandrelModel:
    """A network with its weights.

    Attributes
    ----------
    name : str
        Name of the architecture.
    network : Module
        Maps images (N, C, H, W) in [0, 1] to images that are `scale` times as large.
    scale : int
    channels : int
    multiple, minimum : int
        Sides of images must be multiples of `multiple` and at least `minimum`.
    """

    name: str
    network: nn.Module
    scale: int
    channels: int
    multiple: int
    minimum: int

    @property
    def example_side(self) -> int:
        """Valid side of images; odd if possible, so that tracing exporters record padding and cropping."""
        minimum = max(self.minimum, _MIN_SIDE)
        side = -(-minimum // self.multiple) * self.multiple
        return side if side % 2 else side + self.multiple


class _SingleOutput(nn.Module):
    """A network reduced to its first output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x.clone())  # some networks modify their input
        first: Tensor = out[0] if isinstance(out, (tuple, list)) else out
        return first


def is_installed() -> bool:
    """Return whether spandrel is installed."""
    return util.find_spec("spandrel") is not None


def find(weights: Mapping[str, Tensor]) -> SpandrelModel | None:
    """Return the network that a state dict belongs to; None if it is unknown or spandrel is not installed.

    Raises
    ------
    ModelError
        If the network is known but does not map one image to one image.
    """
    if not is_installed() or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        return None
    spandrel = _spandrel()
    for inner in checkpoints.without_prefixes(dict(weights)):
        try:
            found = spandrel.MAIN_REGISTRY.load({k: v.float() for k, v in inner.items()})
        except spandrel.UnsupportedModelError:
            continue
        except Exception as error:  # spandrel's loaders raise anything if shapes do not fit
            first = " ".join(str(error).split())[:200]
            raise ModelError(f"spandrel recognises the keys but cannot load the weights: {first}") from error
        return _checked(found, spandrel)
    return None


def _checked(found: Any, spandrel: Any) -> SpandrelModel:
    """Return a network, and refuse one that does not map one image alone to one image."""
    name = found.architecture.name
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.purpose == "FaceSR":
        raise ModelError(f"{name} does not map an image to an image")
    if found.input_channels != found.output_channels or found.input_channels not in (1, 3):
        raise ModelError(
            f"{name} maps {found.input_channels} to {found.output_channels} channels; "
            "1 to 1 or 3 to 3 is needed"
        )
    settle(found.model)
    sizes = found.size_requirements
    model = SpandrelModel(
        name,
        _SingleOutput(found.model.eval()),
        found.scale,
        found.input_channels,
        max(sizes.multiple_of, 1),
        max(sizes.minimum, 1),
    )
    image = torch.rand(1, model.channels, model.example_side, model.example_side)
    with torch.no_grad():
        # For some architectures spandrel processes images before or after the network.
        same = torch.allclose(found(image.clone()), model.network(image).clamp(0, 1), atol=1e-5)
    if not same:
        raise ModelError(f"{name} needs pre- or post-processing outside its network")
    return model


def settle(network: nn.Module) -> None:
    """Fuse convolutions that a network (SPAN) fuses in every run; torch's exporter does not support that."""
    for module in network.modules():
        if callable(getattr(module, "update_params", None)):
            module.update_params()  # type: ignore[operator]
            module.update_params = lambda: None  # type: ignore[assignment]


def _spandrel() -> Any:
    """Import spandrel, even if torchvision cannot be imported, for example because its torch is another.

    Only two of its networks (LaMa, RestoreFormer) use torchvision, and neither can be tiled.
    """
    before = set(sys.modules)
    try:
        importlib.import_module("torchvision")
    except Exception:  # a missing library or operator
        for name in {m for m in sys.modules if m.partition(".")[0] == "torchvision"} - before:
            del sys.modules[name]  # partially imported modules
        with _torchvision_stub():
            return importlib.import_module("spandrel")
    return importlib.import_module("spandrel")


@contextmanager
def _torchvision_stub() -> Iterator[None]:
    """Provide the names that spandrel imports from torchvision while the block runs."""
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
