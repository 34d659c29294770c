"""Checkpoint to ONNX under the model contract, checked against torch before it is kept."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import bicubic, spec
from ..errors import ArgumentError, ModelError, OutputError, SourceMissingError
from ..rewrite.dead import drop_dead_filters
from ..session import Session
from . import families
from .model import SRCNN

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

WEIGHTS = tuple(f"conv{k}.weight" for k in (1, 2, 3))
EXPECTED = tuple(f"conv{k}.{part}" for k in (1, 2, 3) for part in ("weight", "bias"))  # of the paper's form
_WRAPPERS = ("params_ema", "state_dict", "model_state_dict", "model", "params", "net", "generator", "net_g")
_GENERATORS = ("params_ema", "generator", "net_g", "netG", "model", "module", "net")  # beside a critic's keys
_TORCHSCRIPT = "constants.pkl"  # what torch.jit.save writes and torch.save does not
# Core sizes (h, w) and batches on which the file must agree with torch: one pixel, odd, long.
_CHECKED = ((1, 1, 1), (2, 7, 5), (1, 33, 18), (1, 3, 61))
_TOLERANCE = 1e-5  # of the largest output: float32 sums in another order


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights and what is known of them."""

    weights: Mapping[str, Tensor]
    arch: str
    channels: int
    filters: tuple[int, int]
    scale: int | None
    form: str
    training: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> SRCNN:
        """Return the torch module with these weights."""
        net = SRCNN(self.arch, self.channels, "paper", self.filters, self.form)
        net.load_state_dict(dict(self.weights))
        return net.eval()


class Upscaler(nn.Module):
    """The contract in torch: mirrored LR windows in, HR cores out; the oracle of the export."""

    def __init__(self, network: SRCNN, scale: int) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        self.margin = bicubic.margin_for(network.shrink, scale)

    def forward(self, lr: Tensor) -> Tensor:  # (N, C, h + 2m, w + 2m) -> (N, C, s·h, s·w)
        up = nn.functional.interpolate(lr, scale_factor=self.scale, mode="bicubic", antialias=True)
        cut = self.margin * self.scale - self.network.shrink
        out: Tensor = self.network(up[:, :, cut:-cut, cut:-cut])
        return out


def export(
    checkpoint: Path, target: Path, *, scale: int | None = None, overwrite: bool = False
) -> spec.ModelSpec:
    """Turn a checkpoint into an ONNX model; the file stays only if it agrees with torch.

    Parameters
    ----------
    checkpoint : what the training loop saved, or a state dict with ``conv1``, ``conv2`` and
        ``conv3``, ``weight`` and ``bias``, or of a network in `families`; also wrapped
        (``state_dict``, ``module.`` ...)
    target : written as a whole or not at all
    scale : needed where the checkpoint does not say it

    Raises
    ------
    SourceMissingError, ModelError, ArgumentError, OutputError
    """
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; overwriting must be asked for")
    loaded = _load(checkpoint)
    weights = _unwrap(loaded)
    extra = loaded if isinstance(loaded, dict) else {}
    family = families.find(weights)
    if family is not None:
        told = family.scale(weights)
        scale = _settle(checkpoint, scale, told)
        try:
            network = family.network({k: v.float() for k, v in weights.items()}, scale)
        except ModelError as error:
            raise ModelError(f"{checkpoint}: {error}") from error
        proto, oracle = trace(network, family.channels(weights)), network
        architecture, training = family.name, {}
    else:
        found = read_checkpoint(checkpoint, loaded)
        scale = _settle(checkpoint, scale, found.scale)
        srcnn = found.network()
        proto, oracle = build(srcnn, scale), Upscaler(srcnn, scale) if scale > 1 else srcnn
        architecture, training = srcnn.arch, dict(extra.get("training") or {})
    return _keep(target, proto, oracle, scale, architecture, training)


def _settle(checkpoint: Path, asked: int | None, told: int | None) -> int:
    """Return the scale that was asked for and that the weights tell, if they agree."""
    if asked is not None and told is not None and asked != told:
        raise ArgumentError(f"{checkpoint}: trained for scale {told}, got --scale {asked}")
    scale = asked or told
    if scale is None:
        raise ArgumentError(f"{checkpoint}: does not say its scale; give --scale")
    if not 1 <= scale <= 8:
        raise ArgumentError(f"scale must be 1 to 8, got {scale}")
    return scale


def _keep(
    target: Path,
    proto: ModelProto,
    oracle: nn.Module,
    scale: int,
    architecture: str,
    training: Mapping[str, Any],
) -> spec.ModelSpec:
    """Write a model; it stays only if its graph has this scale and it agrees with torch."""
    # The file is what the model is, so here is the place to leave out what no picture can wake.
    proto = drop_dead_filters(proto)
    channels = spec.interface(proto.SerializeToString()).channels

    def describe(check: Mapping[str, Any] | None = None) -> bytes:
        spec.set_metadata(
            proto, architecture=architecture, scale=scale, channels=channels, training=training, check=check
        )
        return bytes(proto.SerializeToString())

    partial = target.with_name(target.name + ".partial")
    try:
        try:
            partial.write_bytes(describe())
            check = check_against_torch(partial, oracle, scale)
            partial.write_bytes(describe(check))
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
        _, described = spec.load(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return described


def _load(path: Path) -> object:
    if not path.exists():
        raise SourceMissingError(f"{path}: no such file")
    if path.suffix.lower() == ".safetensors":
        return _load_safetensors(path)
    if _is_torchscript(path):
        raise ModelError(
            f"{path}: TorchScript, a program and not weights: save model.state_dict() where it was made, "
            "or export it to ONNX there"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it holds {name[1]}, which is code" if name else "its pickle cannot be read as tensors"
        raise ModelError(
            f"{path}: not a checkpoint of plain tensors: {what}; save model.state_dict() where it was made"
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
        raise ModelError(f"{path}: reading it needs safetensors: pip install 'srcnn-rt[train]'") from error
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


def read_checkpoint(path: Path, loaded: object = None) -> Checkpoint:
    """Read an SRCNN's weights, and nothing but weights: a pickle that holds code is refused.

    Raises
    ------
    SourceMissingError, ModelError
        The message lists the keys that are known and those found.
    """
    loaded = _load(path) if loaded is None else loaded
    weights = _unwrap(loaded)
    extra = loaded if isinstance(loaded, dict) else {}
    form = "equivariant" if extra.get("form") == "equivariant" else "paper"
    expected = WEIGHTS if form == "equivariant" else EXPECTED
    if sorted(weights) != sorted(expected):
        names = ", ".join(sorted(map(str, weights))[:12]) or "none"
        known = "; ".join(f"{f.name}: {f.keys}" for f in families.FAMILIES)
        raise ModelError(
            f"{path}: not a known network: expected the keys {', '.join(expected)} (SRCNN; or {known}); "
            f"found {names}"
        )
    known_scale = extra.get("scale")
    return _checkpoint(
        path,
        {k: weights[k].float() for k in expected},
        form,
        known_scale if isinstance(known_scale, int) else None,
        extra.get("training") or {},
    )


def read_model(name: str) -> Checkpoint:
    """Read the weights of an SRCNN that `build` wrote: a bundled one, or a file.

    Raises
    ------
    SourceMissingError, ModelError
    """
    from onnx import numpy_helper

    proto = spec.parse(spec.read(name)[0])
    found = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in proto.graph.initializer}
    form = "paper" if EXPECTED[1] in found else "equivariant"
    expected = WEIGHTS if form == "equivariant" else EXPECTED
    if not set(expected) <= set(found):
        raise ModelError(f"{name}: not an SRCNN of this package: no {', '.join(expected)} in it")
    return _checkpoint(Path(name), {k: found[k] for k in expected}, form, None, {})


def _checkpoint(
    path: Path, weights: Mapping[str, Tensor], form: str, scale: int | None, training: Mapping[str, Any]
) -> Checkpoint:
    arch, channels, filters = _shape(path, weights)
    return Checkpoint(weights, arch, channels, filters, scale, form, training)


def trace(network: nn.Module, channels: int) -> ModelProto:
    """Export a padded network by torch's exporter, N, H and W free."""
    import onnx

    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            network,
            (torch.rand(2, channels, 24, 32),),
            dynamo=True,
            dynamic_shapes=(free,),
            input_names=["lr"],
            output_names=["hr"],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.checker.check_model(proto)
    return proto


def build(network: SRCNN, scale: int) -> ModelProto:
    """Write the network as a valid ONNX graph with the bicubic inside, LR in and HR out.

    What the mirrored edge's bicubic adds beyond the network's shrink is cut off before
    the first convolution, where it is one channel, not after the last. The equivariant form adds the
    same bicubic, less the shrink, to what the last convolution gives.
    """
    from onnx import helper, numpy_helper

    channels, equivariant = network.channels, network.form == "equivariant"
    body: list[NodeProto] = []
    initialisers: list[TensorProto] = []

    def crop(source: str, name: str, cut: int) -> str:
        for key, values in (("starts", [cut] * 2), ("ends", [-cut] * 2), ("axes", [2, 3])):
            initialisers.append(numpy_helper.from_array(np.array(values, np.int64), f"{name}.{key}"))
        inputs = [source, *(f"{name}.{key}" for key in ("starts", "ends", "axes"))]
        body.append(helper.make_node("Slice", inputs, [f"{name}.out"], name))
        return f"{name}.out"

    last, spare = "lr", 0
    if scale > 1:
        body, initialisers = bicubic.nodes("lr", "bicubic", scale, channels)
        spare = (bicubic.margin_for(network.shrink, scale) - bicubic.REACH) * scale - network.shrink
        last = "bicubic"
    if spare:
        last = crop(last, "crop", spare)
    picture = last
    for k, (conv, weight) in enumerate(_layers(network), start=1):
        arrays = {"weight": weight} if conv.bias is None else {"weight": weight, "bias": _array(conv.bias)}
        initialisers += [numpy_helper.from_array(array, f"conv{k}.{part}") for part, array in arrays.items()]
        inputs = [last, *(f"conv{k}.{part}" for part in arrays)]
        last = "hr" if k == 3 and not equivariant else f"conv{k}.out"
        kernel = list(conv.kernel_size)
        body.append(helper.make_node("Conv", inputs, [last], f"conv{k}", kernel_shape=kernel))
        if k < 3:
            body.append(helper.make_node("Relu", [last], [f"relu{k}.out"], f"relu{k}"))
            last = f"relu{k}.out"
    if equivariant:
        body.append(helper.make_node("Add", [last, crop(picture, "inner", network.shrink)], ["hr"], "sum"))
    graph = helper.make_graph(
        body,
        f"srcnn-{network.arch}-x{scale}",
        [bicubic.value("lr", channels, "in")],
        [bicubic.value("hr", channels, "out")],
        initialisers,
    )
    return bicubic.make_model(graph)


def _layers(network: SRCNN) -> list[tuple[nn.Conv2d, NDArray[np.float32]]]:
    """Return the convolutions with the weights that are applied."""
    first = _array(network.first_filters)
    if network.form == "equivariant":
        first = exactly_zero_sum(first)
    return [
        (network.conv1, first),
        (network.conv2, _array(network.conv2.weight)),
        (network.conv3, _array(network.conv3.weight)),
    ]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().numpy(), np.float32)


def exactly_zero_sum(weight: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round filters (n, C, f, f) so that the taps of every channel sum to zero without any rounding.

    Every filter is rounded to whole multiples of 2^-22 of its largest tap's power of two; what is left of
    the sum goes, one such step each, to the taps that were rounded farthest the other way.
    """
    flat = np.asarray(weight, np.float64).reshape(-1, weight.shape[2] * weight.shape[3])
    flat = flat - flat.mean(axis=1, keepdims=True)
    _, power = np.frexp(np.abs(flat).max(axis=1, keepdims=True))
    step = np.ldexp(1.0, power - 22)
    whole = np.rint(flat / step)
    for row, exact in zip(whole, flat / step, strict=True):
        left = int(row.sum())
        order = np.argsort((exact - row) * np.sign(left))[: abs(left)]
        row[order] -= np.sign(left)
    return np.asarray(whole * step, np.float32).reshape(weight.shape)


def check_against_torch(model: Path, oracle: nn.Module, scale: int) -> dict[str, Any]:
    """Compare the file, run by ONNX Runtime, with torch on several odd shapes.

    Returns
    -------
    What was compared and the largest difference, for the file's metadata.

    Raises
    ------
    ModelError
        If they differ, or the graph's scale or margin is not the one that is wanted.
    """
    data, described = spec.load(model)
    margin = described.margin
    if isinstance(oracle, (Upscaler, SRCNN)):
        margin = oracle.margin if isinstance(oracle, Upscaler) else oracle.shrink
    if (described.scale, described.margin) != (scale, margin):
        got = (described.scale, described.margin)
        raise ModelError(f"{model}: the graph has scale and margin {got}, expected {(scale, margin)}")
    session = Session(data)
    rng = np.random.default_rng(0)
    worst = 0.0
    around = 0 if described.padded else 2 * margin
    least = max(described.facts.y.minimum, 3) if described.padded else 1
    for n, h, w in _CHECKED:
        size = (n, described.channels, max(h, least) + around, max(w, least) + around)
        lr = rng.random(size, dtype=np.float32)
        with torch.no_grad():
            expected = oracle(torch.from_numpy(lr)).numpy()
        got_hr = session.run(lr)
        if got_hr.shape != expected.shape:
            raise ModelError(f"{model}: gives {got_hr.shape} where torch gives {expected.shape}")
        top = max(1.0, float(np.abs(expected).max()))
        worst = max(worst, float(np.abs(got_hr - expected).max()) / top)
    if not worst <= _TOLERANCE:
        raise ModelError(f"{model}: differs from torch by {worst:.2g} of full scale, over {_TOLERANCE:g}")
    return {"against": f"torch {torch.__version__}", "cores": [list(c) for c in _CHECKED], "largest": worst}


def _unwrap(loaded: object) -> dict[str, Tensor]:
    """Find the dictionary of tensors and strip the prefixes that wrappers add, until a network is known."""
    while isinstance(loaded, Mapping):
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        return {}
    whole = found = {str(k): v for k, v in loaded.items()}
    while found and not _known(found):
        firsts = {k.partition(".")[0] for k in found}
        own = [p for p in _GENERATORS if p in firsts] if len(firsts) > 1 else sorted(firsts)
        if not own:
            return whole
        found = {k.partition(".")[2]: v for k, v in found.items() if k.startswith(f"{own[0]}.")}
    return found or whole


def _known(weights: Mapping[str, Tensor]) -> bool:
    names = set(weights)
    return families.find(weights) is not None or names in (set(WEIGHTS), set(EXPECTED))


def _shape(path: Path, weights: Mapping[str, Tensor]) -> tuple[str, int, tuple[int, int]]:
    """Read architecture, channels and filters off the weights."""
    shapes = [tuple(weights[f"conv{k}.weight"].shape) for k in (1, 2, 3)]
    sizes = [s[2] for s in shapes if len(s) == 4 and s[2] == s[3] and s[2] % 2 == 1]
    chained = (
        len(sizes) == 3
        and all(shapes[k][1] == shapes[k - 1][0] for k in (1, 2))
        and shapes[2][0] == shapes[0][1]
    )
    biases = [(weights.get(f"conv{k}.bias"), shapes[k - 1][:1]) for k in (1, 2, 3)]
    biased = all(b is None or tuple(b.shape) == shape for b, shape in biases)
    if not chained or not biased or shapes[0][1] not in (1, 3):
        text = ", ".join("x".join(map(str, s)) for s in shapes)
        raise ModelError(f"{path}: not an SRCNN: square odd kernels, 1 or 3 channels wanted, got {text}")
    return "-".join(map(str, sizes)), shapes[0][1], (shapes[0][0], shapes[1][0])
