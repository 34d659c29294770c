"""Layers that slide a window over the image: convolutions and pools."""

from __future__ import annotations

import math
from dataclasses import replace

from .receptive_field import SAME, Step, Transposed
from .tensors import Call, Flow, Results


def _window(call: Call, size: int, axis: int, kernel: int, ceil: bool = False) -> tuple[int, Step]:
    """Return output size and link of a convolution or pool on one axis."""
    _check_lengths(call)
    stride = call.attribute("strides", [1, 1])[axis]
    dilation = call.attribute("dilations", [1, 1])[axis]
    pads = call.attribute("pads", [0, 0, 0, 0])
    # ONNX Runtime divides by some of these without looking.
    if min(kernel, stride, dilation) < 1 or min(pads) < 0:
        raise call.refusal(
            f"kernel, stride and dilation must be positive, pads not negative, got {kernel}, {stride}, "
            f"{dilation}, {pads}"
        )
    extent = (kernel - 1) * dilation + 1
    before, after = pads[axis], pads[axis + 2]
    auto = call.attribute("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        before = total // 2 if auto == b"SAME_UPPER" else total - total // 2
        after = total - before
    spare = size + before + after - extent
    out = (-(-spare // stride) if ceil else spare // stride) + 1
    if ceil and (out - 1) * stride >= size + before:  # a window must not begin in the padding
        out -= 1
    return out, Step(kernel=extent, stride=stride, start=-before)


def _filters(call: Call, weight_at: int, *, transposed: bool = False) -> tuple[int, ...]:
    """Return the shape of a weight, which must go with its input, its bias and its attributes."""
    flow, group = call.flow, call.attribute("group", 1)
    shape = call.value(weight_at).shape
    if len(shape) != 4 or min(shape) < 1 or group < 1:
        raise call.refusal(f"needs a weight (out, in, h, w) and groups, got {shape} and {group}")
    takes = shape[0] if transposed else shape[1] * group
    if flow.shape[1] != takes or shape[0] % group:
        raise call.refusal(
            f"a weight of shape {shape} in {group} groups does not take {flow.shape[1]} channels"
        )
    bias_at = 8 if call.op == "QLinearConv" else 2
    bias = call.known(bias_at)
    out = shape[1] * group if transposed else shape[0]
    if bias is not None and bias.value.shape != (out,):
        raise call.refusal(f"a bias of shape {bias.value.shape} does not go with {out} channels")
    kernel = call.attribute("kernel_shape")
    if kernel is not None and tuple(kernel) != shape[2:]:
        raise call.refusal(f"its kernel_shape is {tuple(kernel)}, its weight's {shape[2:]}")
    return tuple(shape)


def _check_lengths(call: Call) -> None:
    """Refuse windows of another number of axes than two."""
    for name, count in (("strides", 2), ("dilations", 2), ("kernel_shape", 2), ("pads", 4)):
        values = call.attribute(name)
        if values is not None and len(values) != count:
            raise call.refusal(f"{name} must be {count} numbers, got {len(values)}")


def conv(call: Call, weight_at: int = 1) -> Results:
    flow = call.images
    weight = _filters(call, weight_at)
    results = [_window(call, flow.shape[2 + k], k, weight[2 + k]) for k in (0, 1)]
    return _slid(flow, weight[0], results, flow.shape[0] * math.prod(weight))


def _slid(flow: Flow, channels: int, results: list[tuple[int, Step]], macs: int) -> Results:
    """Return the result of a sliding window; `macs` of one position.

    Within windows that were cut out of the image nothing reaches beyond them: what a layer pads there is
    part of the model, the same in every window.
    """
    (h, y), (w, x) = results
    axes = [flow.factors(0), (("c", channels),), ((flow.roles[2], h),), ((flow.roles[3], w),)]
    links = (y, x) if flow.is_spatial(2) else (SAME, SAME)
    return [(Flow.of(axes), *links, h * w * macs)]


def conv_transpose(call: Call) -> Results:
    flow = call.image
    _check_lengths(call)
    weight = _filters(call, 1, transposed=True)
    sizes, links = [], []
    for k in (0, 1):
        stride = call.attribute("strides", [1, 1])[k]
        extent = (weight[2 + k] - 1) * call.attribute("dilations", [1, 1])[k] + 1
        extra = call.attribute("output_padding", [0, 0])[k]
        pads = call.attribute("pads", [0, 0, 0, 0])
        before, after = pads[k], pads[k + 2]
        if min(stride, extent) < 1 or min(extra, before, after) < 0:
            raise call.refusal(
                f"stride and kernel must be positive, pads not negative, got {stride}, {extent}, {pads}"
            )
        full = (flow.spatial[k] - 1) * stride + extent + extra
        auto = call.attribute("auto_pad", b"NOTSET")
        if call.attribute("output_shape") is not None:
            raise call.refusal("a fixed output_shape does not fit other images")
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            total = max(full - flow.spatial[k] * stride, 0)
            before = total - total // 2 if auto == b"SAME_LOWER" else total // 2
            after = total - before
        sizes.append(full - before - after)
        links.append(Transposed(extent, stride, before))
    out = replace(flow, shape=(flow.shape[0], weight[1] * call.attribute("group", 1), *sizes))
    return [(out, links[0], links[1], math.prod(flow.spatial) * math.prod(weight))]


def pool(call: Call) -> Results:
    flow = call.images
    if len([n for n in call.node.output if n]) > 1:
        raise call.refusal("its indices point anywhere in the image")
    kernel = call.attribute("kernel_shape")
    ceil = bool(call.attribute("ceil_mode", 0))
    results = [_window(call, flow.shape[2 + k], k, kernel[k], ceil) for k in (0, 1)]
    return _slid(flow, flow.shape[1], results, 0)
