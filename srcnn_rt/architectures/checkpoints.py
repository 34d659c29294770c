"""Reading the tensors of checkpoints, and nothing else from them, and removing wrappers around them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ModelError, SourceMissingError

Weights = dict[str, Tensor]
_WRAPPERS = ("params_ema", "state_dict", "model_state_dict", "model", "params", "net", "generator", "net_g")
# Prefixes of a GAN's generator, whose checkpoint also contains the discriminator.
_GENERATORS = ("params_ema", "generator", "net_g", "netG", "model", "module", "net")
_TORCHSCRIPT = "constants.pkl"  # torch.jit.save writes it, torch.save does not


def load(path: Path) -> object:
    """Load a checkpoint in PyTorch's or the safetensors format.

    Raises
    ------
    SourceMissingError
        If the file does not exist.
    ModelError
        If it is not a checkpoint, or its pickle contains code, which is not executed.
    """
    if not path.exists():
        raise SourceMissingError(f"{path}: no such file")
    if path.suffix.lower() == ".safetensors":
        return _load_safetensors(path)
    if _is_torchscript(path):
        raise ModelError(
            f"{path}: a TorchScript program, not a checkpoint; save model.state_dict() where it was created, "
            "or export it to ONNX there"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it contains {name[1]}, which is code" if name else "its pickle cannot be read as tensors"
        raise ModelError(
            f"{path}: not a checkpoint of plain tensors: {reason}; "
            "save model.state_dict() where it was created"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: not a checkpoint of plain tensors: {str(error).splitlines()[0]}"
        ) from error


def _load_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModelError(
            f"{path}: reading it needs safetensors; run: pip install 'srcnn-rt[train]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file: {error}") from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).name == _TORCHSCRIPT for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def tensors(loaded: object) -> Weights:
    """Return the state dict in a loaded checkpoint, without the dicts around it; empty if there is none."""
    while isinstance(loaded, Mapping):
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    return {str(k): v for k, v in loaded.items()} if isinstance(loaded, Mapping) else {}


def without_prefixes(weights: Weights) -> Iterator[Weights]:
    """Yield the weights as they are, then without the prefixes that wrappers add to all keys, one by one.

    Of a GAN, which has several prefixes, the generator's weights are yielded.
    """
    while weights:
        yield weights
        firsts = {k.partition(".")[0] for k in weights}
        prefixes = [p for p in _GENERATORS if p in firsts] if len(firsts) > 1 else sorted(firsts)
        if not prefixes:
            return
        prefix = f"{prefixes[0]}."
        weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
