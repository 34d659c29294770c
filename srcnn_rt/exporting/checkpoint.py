"""Checkpoint to ONNX under the model contract, checked against torch before it is kept."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..architectures import checkpoints, families, spandrel_models
from ..architectures.srcnn import SRCNN
from ..backends.onnxruntime import Session
from ..backends.untiled import load_whole
from ..errors import ArgumentError, ModelError, OutputError
from ..image import bicubic
from ..models import spec
from ..models.optimize.dead_filters import drop_dead_filters

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

WEIGHTS = tuple(f"conv{k}.weight" for k in (1, 2, 3))
EXPECTED = tuple(f"conv{k}.{part}" for k in (1, 2, 3) for part in ("weight", "bias"))  # of the paper's form
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
        ``conv3``, ``weight`` and ``bias``, of a network in `families`, or of one that spandrel knows;
        also wrapped (``state_dict``, ``module.`` ...)
    target : written as a whole or not at all
    scale : needed where the checkpoint does not say it

    Raises
    ------
    SourceMissingError, ModelError, ArgumentError, OutputError
    """
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; overwriting must be asked for")
    loaded = checkpoints.load(checkpoint)
    found = _srcnn(checkpoint, loaded)
    if found is not None:
        scale = _settle(checkpoint, scale, found.scale)
        srcnn = found.network()
        oracle: nn.Module = Upscaler(srcnn, scale) if scale > 1 else srcnn
        return _keep(target, [partial(build, srcnn, scale)], oracle, _Told(srcnn.arch, scale, found.training))
    weights = checkpoints.tensors(loaded)
    for inner in checkpoints.without_prefixes(weights):
        family = families.find(inner)
        if family is None:
            continue
        scale = _settle(checkpoint, scale, family.scale(inner))
        try:
            network = family.network({k: v.float() for k, v in inner.items()}, scale)
        except ModelError as error:
            raise ModelError(f"{checkpoint}: {error}") from error
        told = _Told(family.name, scale, values=family.values)
        return _keep(target, [partial(trace, network, family.channels(inner))], network, told)
    try:
        other = spandrel_models.find(weights)
    except ModelError as error:
        raise ModelError(f"{checkpoint}: {error}") from error
    if other is None:
        raise ModelError(f"{checkpoint}: {_unknown(weights, _expected(loaded))}")
    scale = _settle(checkpoint, scale, other.scale)
    ways = [
        partial(trace, other.network, other.channels, side=other.example),
        partial(trace_old, other.network, other.channels, side=other.example),
    ]
    told = _Told(other.name, scale, {}, spandrel_models.VALUES, other.multiple, other.minimum)
    return _keep(target, ways, other.network, told)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a checkpoint tells of its network beside the weights.

    Attributes
    ----------
    values : its black and white, where that is not luminance in studio swing, or RGB in [0, 1]
    multiple, minimum : sizes that the network takes
    """

    architecture: str
    scale: int
    training: Mapping[str, Any] = field(default_factory=dict)
    values: str | None = None
    multiple: int = 1
    minimum: int = 1


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
    target: Path, ways: Sequence[Callable[[], ModelProto]], oracle: nn.Module, told: _Told
) -> spec.ModelSpec:
    """Write a model in the first of several ways that works; it stays only if it agrees with torch."""
    for k, way in enumerate(ways, start=1):
        try:
            return _write(target, way(), oracle, told)
        except ModelError:
            if k == len(ways):
                raise
    raise AssertionError("no way was given")


def _write(target: Path, proto: ModelProto, oracle: nn.Module, told: _Told) -> spec.ModelSpec:
    """Write a model; it stays only if its graph has this scale and it agrees with torch."""
    # The file is what the model is, so here is the place to leave out what no image can wake.
    proto = drop_dead_filters(proto)
    channels = spec.interface(proto.SerializeToString()).channels

    def describe(check: Mapping[str, Any] | None = None) -> bytes:
        spec.set_metadata(
            proto,
            architecture=told.architecture,
            scale=told.scale,
            channels=channels,
            training=told.training,
            check=check,
            values=told.values,
        )
        return bytes(proto.SerializeToString())

    partial_file = target.with_name(target.name + ".partial")
    try:
        try:
            partial_file.write_bytes(describe())
            check = check_against_torch(partial_file, oracle, told)
            partial_file.write_bytes(describe(check))
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
        described = load_whole(partial_file)[1]
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)
    return described


def read_checkpoint(path: Path, loaded: object = None) -> Checkpoint:
    """Read an SRCNN's weights, and nothing but weights: a pickle that holds code is refused.

    Raises
    ------
    SourceMissingError, ModelError
        The message lists the keys that are known and those found.
    """
    loaded = checkpoints.load(path) if loaded is None else loaded
    found = _srcnn(path, loaded)
    if found is None:
        raise ModelError(f"{path}: {_unknown(checkpoints.tensors(loaded), _expected(loaded))}")
    return found


def _expected(loaded: object) -> tuple[str, ...]:
    """Return an SRCNN's keys: those of the equivariant form where a checkpoint says so."""
    form = loaded.get("form") if isinstance(loaded, dict) else None
    return WEIGHTS if form == "equivariant" else EXPECTED


def _srcnn(path: Path, loaded: object) -> Checkpoint | None:
    """Return an SRCNN's weights, or None if these are not one's."""
    expected = _expected(loaded)
    names = sorted(expected)
    candidates = checkpoints.without_prefixes(checkpoints.tensors(loaded))
    weights = next((w for w in candidates if sorted(w) == names), None)
    if weights is None:
        return None
    extra = loaded if isinstance(loaded, dict) else {}
    scale = extra.get("scale")
    return _checkpoint(
        path,
        {k: weights[k].float() for k in expected},
        "equivariant" if expected is WEIGHTS else "paper",
        scale if isinstance(scale, int) else None,
        extra.get("training") or {},
    )


def _unknown(weights: Mapping[str, Tensor], expected: Sequence[str]) -> str:
    names = ", ".join(sorted(map(str, weights))[:12]) or "none"
    known = "; ".join(f"{f.name}: {f.keys}" for f in families.FAMILIES)
    more = (
        ""
        if spandrel_models.is_there()
        else '; pip install "srcnn-rt[spandrel]" for forty more architectures'
    )
    keys = ", ".join(expected)
    return f"not a known network: expected the keys {keys} (SRCNN; or {known}); found {names}{more}"


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


def trace(network: nn.Module, channels: int, *, side: int = 15) -> ModelProto:
    """Export a padded network by torch's exporter, H and W free.

    Parameters
    ----------
    side : of the example, a size that the network takes

    Raises
    ------
    ModelError
        If torch cannot export it so.
    """
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}

    def run() -> ModelProto:
        program = torch.onnx.export(
            network,
            (torch.rand(2, channels, side, 3 * side),),
            dynamo=True,
            dynamic_shapes=(free,),
            input_names=["lr"],
            output_names=["hr"],
            verbose=False,
        )
        assert program is not None
        return program.model_proto

    return _exported(run)


def trace_old(network: nn.Module, channels: int, *, side: int = 15) -> ModelProto:
    """Do the same by torch's exporter of old, which traces: it takes what the newer one does not, batch 1.

    What it bakes in of the example's size is found by the check against torch.
    """
    import onnx

    def run() -> ModelProto:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            torch.onnx.export(
                network,
                (torch.rand(1, channels, side, 3 * side),),
                file,
                dynamo=False,
                dynamic_axes={"lr": {2: "h", 3: "w"}, "hr": {2: "sh", 3: "sw"}},
                input_names=["lr"],
                output_names=["hr"],
            )
            return onnx.load(file)

    return _exported(run)


def _exported(run: Callable[[], ModelProto]) -> ModelProto:
    """Run one of torch's exporters without what it prints, and check what it made."""
    import onnx

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporters' own deprecations
            proto = run()
        onnx.checker.check_model(proto)
    except Exception as error:  # whatever they raise, from a dozen packages
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"torch cannot export it to ONNX: {first}") from error
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
        spare = (bicubic.margin_for(network.shrink, scale) - bicubic.RADIUS) * scale - network.shrink
        last = "bicubic"
    if spare:
        last = crop(last, "crop", spare)
    image = last
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
        body.append(helper.make_node("Add", [last, crop(image, "inner", network.shrink)], ["hr"], "sum"))
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


def check_against_torch(model: Path, oracle: nn.Module, told: _Told) -> dict[str, Any]:
    """Compare the file, run by ONNX Runtime, with torch on several odd shapes.

    Returns
    -------
    dict
        The version of torch, the shapes compared and the largest difference, for the file's metadata.

    Raises
    ------
    ModelError
        If they differ, or the graph's scale or margin is not the one that is wanted.
    """
    data, described = load_whole(model)  # one that cannot be tiled, too: --no-tiling runs it
    margin = described.margin
    if isinstance(oracle, (Upscaler, SRCNN)):
        margin = oracle.margin if isinstance(oracle, Upscaler) else oracle.shrink
    if (described.scale, described.margin) != (told.scale, margin):
        got = (described.scale, described.margin)
        raise ModelError(f"{model}: the graph has scale and margin {got}, expected {(told.scale, margin)}")
    session = Session(data)
    oracle.eval()  # an exporter that failed may have left it otherwise
    rng = np.random.default_rng(0)
    worst = 0.0
    around = 0 if described.padded else 2 * margin
    minimum = max(described.facts.y.minimum, 3) if described.padded else 1
    for n, h, w in _CHECKED:
        sides = [_legal(max(side, minimum) + around, described.facts.y.multiple, told) for side in (h, w)]
        size = (described.batch or n, described.channels, *sides)
        lr = rng.random(size, dtype=np.float32)
        with torch.no_grad():
            expected = oracle(torch.from_numpy(lr)).numpy()
        try:
            got_hr = session.run(lr)
        except ModelError as error:
            raise ModelError(
                f"{model}: what torch exports of it does not run at every size: {error}"
            ) from error
        if got_hr.shape != expected.shape:
            raise ModelError(f"{model}: gives {got_hr.shape} where torch gives {expected.shape}")
        top = max(1.0, float(np.abs(expected).max()))
        worst = max(worst, float(np.abs(got_hr - expected).max()) / top)
    if not worst <= _TOLERANCE:
        raise ModelError(f"{model}: differs from torch by {worst:.2g} of full scale, over {_TOLERANCE:g}")
    return {"against": f"torch {torch.__version__}", "cores": [list(c) for c in _CHECKED], "largest": worst}


def _legal(side: int, multiple: int, told: _Told) -> int:
    """Return the next size that both the file and the network take."""
    step = math.lcm(multiple, told.multiple)
    return -(-max(side, told.minimum) // step) * step


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
