"""Graphs that take and return images: interleaved samples in, interleaved samples out.

`backends.host_renderer` prepares samples for a network and combines its results on the CPU. Here the same
steps are nodes around the network, so that a GPU receives and returns bytes, and the CPU computes nothing.
Samples stay in code values (0 … 255 for uint8), so that no step only divides or multiplies by white.

With luminance Y and the network f, ``bicubic(rgb) + f(Y) - luminance(bicubic(rgb))`` equals
``bicubic(rgb - Y) + f(Y)``, because bicubic weights sum to 1. So the difference is taken at LR, and one
multiplication and one addition are left at HR. For a network that is added to bicubic the sum is
``bicubic(rgb) + f(Y)``.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, ModelError
from ..image import bicubic, color
from ..image.info import Layout
from ..tiling import kernels
from . import margins
from .onnx_helpers import opset_version, subgraphs, unused_name
from .spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

    from .optimize.node_builder import NodeBuilder

Source = Literal["windows", "whole", "gather"]

PREFIX = "pixels"  # of the names of all nodes added here
PUBLIC = ("image", "rows", "columns", "result")  # names of inputs and output


def build_image_graph(
    model: ModelProto,
    spec: ModelSpec,
    layout: Layout,
    dtype: np.dtype[Any],
    *,
    source: Source = "windows",
    split: bool = False,
) -> ModelProto:
    """Build a graph around a network that takes and returns images.

    Parameters
    ----------
    model : ModelProto
        The network as it runs; float32, float16 or uint8 in and out. Not changed.
    spec : ModelSpec
        Its facts, as `prepare.build_program` returns them for `model`.
    layout : Layout
        Meaning of the C channels of the images.
    dtype : dtype
        uint8, uint16 or float32, the type of the images. Integers use their full range. float32 is nominally
        [0, 1], is neither clipped nor rounded, and must be finite (see `image.nodata`).
    source : {"windows", "whole", "gather"}
        Inputs of the graph:

        - ``"windows"``: "image" (N, h + 2m, w + 2m, C) with the margin m of `margin_for`, already mirrored.
        - ``"whole"``: "image" (N, h, w, C) of any size, or the model's fixed size, mirrored inside.
        - ``"gather"``: "image" (H, W, C) of any size, and the int64 indices "rows" (h + 2m) and "columns"
          (w + 2m) of one window, mirrored already.
    split : bool
        Keep the added steps exact on a GPU that may round factors of convolutions to TF32.

    Returns
    -------
    ModelProto
        With an output "result" (N, s·h, s·w, C) of `dtype`, or (s·h, s·w, C) for ``"gather"``.

    Raises
    ------
    ImageError
        If the layout does not fit the model.
    ArgumentError
        If `dtype` or `source` is not one of the above.
    ModelError
        If the model's operator set cannot be converted, or its batch does not fit `source`.
    """
    from .optimize.graph_edit import Edit
    from .optimize.node_builder import NodeBuilder

    margins.check_layout(spec, layout)
    if dtype not in kernels.DTYPES:
        raise ArgumentError(f"an image must be uint8, uint16 or float32, got {dtype}")
    if source not in get_args(Source):
        raise ArgumentError(f"source must be one of {', '.join(get_args(Source))}, got {source!r}")
    if source == "gather" and spec.batch not in (None, 1):
        raise ModelError(f"takes {spec.batch} windows per run; gather needs a model that takes one")
    made = _converted(model)
    network = _Network(made)
    del made.graph.input[:], made.graph.output[:]
    inputs, output = _interface(spec, layout, dtype, source)
    made.graph.input.extend(inputs)
    made.graph.output.append(output)
    edit = Edit(made)
    steps = NodeBuilder(edit, PREFIX, split=split)
    path = _ImagePath(steps, network, spec, layout, dtype)
    if source == "whole":
        path.whole()
    elif source == "gather":
        rows = steps.op("Gather", "image", "rows", axis=0)
        window = steps.op("Unsqueeze", steps.op("Gather", rows, "columns", axis=1), steps.ints(0))
        steps.op("Squeeze", path.window(window), steps.ints(0), output="result")
    else:
        path.window("image", output="result")
    edit.nodes = steps.nodes
    return edit.model()


def _converted(model: ModelProto) -> ModelProto:
    """Return a copy of the model in an operator set that `NodeBuilder` supports."""
    from onnx import version_converter

    from .optimize.node_builder import NEWEST, OLDEST

    opset = opset_version(model)
    if opset > NEWEST:
        raise ModelError(f"operator set {opset} is not supported, {OLDEST} to {NEWEST} are")
    if opset >= OLDEST:
        return deepcopy(model)
    try:
        return version_converter.convert_version(model, bicubic.OPSET)
    except Exception as error:  # the converter's errors share no other base class
        raise ModelError(
            f"operator set {opset} cannot be converted to {bicubic.OPSET} ({error}); export the model with "
            f"operator set {OLDEST} or later"
        ) from error


def _interface(
    spec: ModelSpec, layout: Layout, dtype: np.dtype[Any], source: Source
) -> tuple[list[ValueInfoProto], ValueInfoProto]:
    """Return the declarations of the inputs and the output. Sizes are free unless the model's are fixed."""
    from onnx import TensorProto, helper

    kind = helper.np_dtype_to_tensor_dtype(dtype)
    fixed = tuple(rule.fixed for rule in margins.rules_for(spec))
    around = 0 if source == "whole" else 2 * margins.margin_for(spec, layout)
    size = [f if n is None else n + around for f, n in zip(("h", "w"), fixed, strict=True)]
    large = [f if n is None else n * spec.scale for f, n in zip(("h_out", "w_out"), fixed, strict=True)]
    channels = layout.channels

    def value(name: str, kind: int, *dims: int | str) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(dims))

    if source == "gather":
        image = value("image", kind, "height", "width", channels)
        indices = (value(k, TensorProto.INT64, n) for k, n in zip(("rows", "columns"), size, strict=True))
        return [image, *indices], value("result", kind, *large, channels)
    n = spec.batch or "n"
    return [value("image", kind, n, *size, channels)], value("result", kind, n, *large, channels)


class _Network:
    """Nodes of the network, which can be added several times with the same weights.

    Parameters
    ----------
    model : ModelProto
        Tensors whose names are among `PUBLIC` are renamed in place.
    """

    def __init__(self, model: ModelProto) -> None:
        from .analysis import Interface

        face = Interface.of(model)
        graph = model.graph
        names = {n for node in graph.node for n in (*node.input, *node.output)}
        names |= {t.name for t in graph.initializer}
        taken = {name: unused_name(f"network.{name}", names) for name in PUBLIC if name in names}
        for tensor in graph.initializer:
            tensor.name = taken.get(tensor.name, tensor.name)
        self._nodes = [_renamed(node, taken) for node in graph.node]
        del graph.node[:]
        graph.node.extend(self._nodes)  # for `Edit`, which keeps names apart
        self._source, self._target = (taken.get(n, n) for n in (face.source, face.target))
        self._types = face.types
        self._written = False

    def write(self, steps: NodeBuilder, x: str) -> str:
        """Add the network on `x`, float32 in its own range of values, and return its float32 output."""
        kind, kind_out = self._types
        if kind == "uint8":
            x = steps.op("Round", steps.clip(x, 255))
        names = {self._source: x if kind == "float32" else steps.cast(x, kind)}
        if self._written:
            names |= {n: steps.edit.fresh(n) for node in self._nodes for n in node.output if n}
        for node in self._nodes:
            copy = _renamed(node, names)
            if self._written:
                copy.name = steps.edit.fresh(node.name)
            steps.nodes.append(copy)
        self._written = True
        out = names.get(self._target, self._target)
        return out if kind_out == "float32" else steps.cast(out, "float32")


class _ImagePath:
    """Steps from samples in to samples out, for one model, layout and type."""

    def __init__(
        self, steps: NodeBuilder, network: _Network, spec: ModelSpec, layout: Layout, dtype: np.dtype[Any]
    ) -> None:
        self._steps, self._net, self._spec, self._layout, self._dtype = steps, network, spec, layout, dtype
        self._white = kernels.white(dtype)
        self._gain, self._offset = np.array(spec.range.gain), np.array(spec.range.offset)
        # Margin of the windows of colour, without the part that bicubic reads.
        self._cut = margins.network_margin(spec) + margins.bicubic_margin(spec, layout) - bicubic.RADIUS

    def window(self, image: str, output: str | None = None) -> str:
        """Add the steps for windows (N, h + 2m, w + 2m, C) with their margins."""
        steps = self._steps
        # Transposed before the cast, while a sample is one byte.
        planes = self._planes(image)
        if self._integer:
            planes = steps.cast(planes, "float32")
        planes = self._rounded(self._render(planes))
        if self._integer:
            planes = steps.cast(planes, self._dtype.name)
        return self._interleaved(planes, output)

    def whole(self) -> None:
        """Add the steps for whole images (N, h, w, C).

        Casts come first and last, because TensorRT takes bytes only at the ends of a graph.
        """
        steps, spec, margin = self._steps, self._spec, margins.margin_for(self._spec, self._layout)
        image = steps.cast("image", "float32") if self._integer else "image"
        planes = self._planes(image)
        window, ends = planes, {}
        for axis, rule in zip((2, 3), margins.rules_for(spec), strict=True):
            # Like `Rules.extended` and `Rules.tile`: mirrored up to a size that the model takes.
            step = rule.multiple if rule.clipped else rule.period
            step, minimum = (1, 1) if rule.fixed is not None else (step, rule.minimum)
            window = steps.mirror(window, axis, margin, margin + max(step, minimum) - 1)
            if max(step, minimum) > 1:
                length = steps.length(planes, axis)
                size = steps.op("Div", steps.op("Add", length, steps.ints(step - 1)), steps.ints(step))
                size = steps.op("Max", steps.op("Mul", size, steps.ints(step)), steps.ints(minimum))
                window = steps.first(window, axis, steps.op("Add", size, steps.ints(2 * margin)))
                ends[axis] = steps.op("Mul", length, steps.ints(spec.scale))
        planes = self._render(window)
        for axis, end in ends.items():
            planes = steps.first(planes, axis, end)
        planes = self._rounded(planes)
        if self._integer:
            steps.cast(self._interleaved(planes), self._dtype.name, output="result")
        else:
            self._interleaved(planes, "result")

    @property
    def _integer(self) -> bool:
        return self._dtype.kind != "f"

    def _planes(self, image: str) -> str:
        """Transpose (N, h, w, C) to (N, C, h, w); one channel is only reshaped, which moves nothing."""
        steps = self._steps
        if self._layout.channels > 1:
            return steps.op("Transpose", image, perm=[0, 3, 1, 2])
        return steps.op("Unsqueeze", steps.op("Squeeze", image, steps.ints(3)), steps.ints(1))

    def _interleaved(self, planes: str, output: str | None = None) -> str:
        """Transpose (N, C, h, w) to (N, h, w, C)."""
        steps = self._steps
        if self._layout.channels > 1:
            return steps.op("Transpose", planes, perm=[0, 2, 3, 1], output=output)
        planes = steps.op("Squeeze", planes, steps.ints(1))
        return steps.op("Unsqueeze", planes, steps.ints(3), output=output)

    def _rounded(self, planes: str) -> str:
        """Clip samples of integer images and round them half to even."""
        if not self._integer:
            return planes
        return self._steps.op("Round", self._steps.clip(planes, self._white))

    def _render(self, planes: str) -> str:
        """Upscale planes (N, C, h + 2m, w + 2m) to (N, C, s·h, s·w), both in code values."""
        spec, layout = self._spec, self._layout
        if margins.has_plain_alpha(spec, layout):
            return self._with_alpha(planes)
        if spec.adds_bicubic:
            smooth = self._steps.enlarge(self._steps.crop(planes, self._cut), spec.scale, layout.channels)
            return self._steps.op("Add", smooth, self._detail(planes))
        if margins.recolors(spec, layout):
            return self._recolored(np.eye(3), planes)
        return self._sharp(planes, layout.channels)

    def _detail(self, planes: str) -> str:
        """Return the network's difference to bicubic, one for each colour channel or one for all of them."""
        steps, spec, layout = self._steps, self._spec, self._layout
        if margins.recolors(spec, layout):
            return self._luminance(planes) if spec.adds_bicubic else self._recolored(np.zeros((1, 3)), planes)
        count = layout.channels - layout.alpha
        sharp = self._sharp(steps.crop(planes, margins.bicubic_margin(spec, layout)), count)
        if spec.adds_bicubic:
            return sharp
        smooth = steps.times(steps.crop(planes, self._cut), -1)
        return steps.op("Add", sharp, steps.enlarge(smooth, spec.scale, count))

    def _network(self, planes: str) -> str:
        """Run the network on planes of as many channels as it has."""
        steps = self._steps
        fed = steps.plus(steps.times(planes, self._gain / self._white), self._offset)
        return steps.times(steps.plus(self._net.write(steps, fed), -self._offset), self._white / self._gain)

    def _sharp(self, planes: str, count: int) -> str:
        """Run the network on `count` planes: all at once, as gray, or one after the other."""
        steps, channels = self._steps, self._spec.channels
        if channels == count:
            return self._network(planes)
        if channels == 3 and count == 1:  # gray is fed as three equal channels
            ones = np.ones(3)
            fed = steps.mix(planes, (ones * self._gain / self._white)[:, None], ones * self._offset)
            back = ones * self._white / (3 * self._gain)
            bias = -(back @ (ones * self._offset))[None]
            return steps.mix(self._net.write(steps, fed), back[None, :], bias)
        if self._spec.batch is None:
            # Each channel becomes an image of the batch.
            planes = steps.op("Reshape", planes, steps.ints(-1, 1, 0, 0))
            return steps.op("Reshape", self._network(planes), steps.ints(-1, count, 0, 0))
        return steps.concat(*(self._network(steps.channels(planes, c, c + 1)) for c in range(count)))

    def _luminance(self, planes: str) -> str:
        """Return the network's luminance of RGB in code values, without the offset of its range."""
        steps, gain = self._steps, self._gain[0]
        weight = np.array([color.LUMA_WEIGHTS]) * gain / self._white
        inner = steps.crop(planes, margins.bicubic_margin(self._spec, self._layout))
        y = self._net.write(steps, steps.mix(inner, weight, np.array([self._offset[0]])))
        return steps.times(y, self._white / gain)

    def _recolored(self, colors: NDArray[np.float64], planes: str) -> str:
        """Return combinations of bicubic R, G, B with the network's luminance in place of their own.

        The offset of the network's range of values is subtracted too.
        """
        steps = self._steps
        constant = self._white * self._offset[0] / self._gain[0]
        bias = np.full(len(colors), -constant)
        rest = steps.mix(steps.crop(planes, self._cut), colors - np.array(color.LUMA_WEIGHTS), bias)
        return steps.op("Add", steps.enlarge(rest, self._spec.scale, len(colors)), self._luminance(planes))

    def _with_alpha(self, planes: str) -> str:
        """Add the network's detail of filled colour to bicubic of premultiplied colour."""
        steps, spec, count = self._steps, self._spec, self._layout.channels - 1
        radius = margins.alpha_radius(spec)
        colors = steps.channels(planes, 0, count)
        alpha = steps.times(steps.channels(planes, count, count + 1), 1 / self._white)
        seen = alpha if self._integer else steps.clip(alpha, 1)
        weighted = steps.concat(steps.op("Mul", colors, seen), seen)
        opaque = self._filled(weighted, radius, count)
        weighted = steps.crop(weighted, radius)
        if not self._integer:  # with unclipped alpha, also outside [0, 1]
            plain = steps.concat(steps.op("Mul", colors, alpha), alpha)
            weighted = steps.crop(plain, radius)
        large = steps.enlarge(steps.crop(weighted, self._cut), spec.scale, count + 1)
        alpha = steps.channels(large, count, count + 1)
        colors = steps.op("Div", steps.channels(large, 0, count), alpha)
        sharp = steps.op("Add", colors, self._detail(opaque))
        visible = steps.op("GreaterOrEqual", alpha, steps.number(kernels.min_alpha(self._dtype)))
        colors = steps.op("Where", visible, sharp, steps.number(0))
        return steps.concat(colors, steps.times(alpha, self._white))

    def _filled(self, weighted: str, radius: int, count: int) -> str:
        """Fill transparent pixels with the weighted mean of the colour around them.

        `weighted` holds colour times alpha, then alpha.
        """
        steps = self._steps
        near = np.broadcast_to(color.nearness(radius), (count + 1, 1, 1, 2 * radius + 1))
        around = steps.conv(weighted, near.swapaxes(2, 3), group=count + 1)
        around = steps.conv(around, near, group=count + 1)
        top, seen = steps.channels(around, 0, count), steps.channels(around, count, count + 1)
        # Half of the smallest visible sum, because some GPUs' convolutions of zeros are not exactly zero.
        minimum = 0.5 / self._white / (radius + 1) ** 2 if self._integer else 0.0
        found = steps.op("Greater", seen, steps.number(minimum))
        mean = steps.op("Where", found, steps.op("Div", top, seen), steps.number(0))
        inner = steps.crop(weighted, radius)
        own, alpha = steps.channels(inner, 0, count), steps.channels(inner, count, count + 1)
        return steps.op("Add", own, steps.op("Mul", steps.op("Sub", steps.number(1), alpha), mean))


def _renamed(node: NodeProto, names: dict[str, str]) -> NodeProto:
    """Return a copy of a node that reads and writes renamed tensors, in its subgraphs too."""
    copy = deepcopy(node)
    for refs in (copy.input, copy.output):
        for k, name in enumerate(refs):
            refs[k] = names.get(name, name)
    for body in subgraphs(copy):
        # A subgraph's own names hide those outside.
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own |= {n for inner in body.node for n in inner.output}
        outer = {k: v for k, v in names.items() if k not in own}
        nodes = [_renamed(inner, outer) for inner in body.node]
        del body.node[:]
        body.node.extend(nodes)
        for value in body.output:
            value.name = outer.get(value.name, value.name)
    return copy
