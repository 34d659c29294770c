"""Layers that slide a window over the image: convolutions and pools."""

from __future__ import annotations

import math
from dataclasses import replace

from .receptive_field import IDENTITY, Strided, Transposed
from .tensors import Call, Flow, Results


def _window(call: Call, size: int, axis: int, kernel: int, ceil: bool = False) -> tuple[int, Strided]:
    """Return the output size and the link of a convolution or pool on one axis."""
    _check_lengths(call)
    stride = call.attribute("strides", [1, 1])[axis]
    dilation = call.attribute("dilations", [1, 1])[axis]
    pads = call.attribute("pads", [0, 0, 0, 0])
    # ONNX Runtime divides by some of these without checking them.
    if min(kernel, stride, dilation) < 1 or min(pads) < 0:
        raise call.refusal(
            f"kernel, stride and dilation must be positive, pads not negative, got {kernel}, {stride}, "
            f"{dilation}, {pads}"
        )
    extent = (kernel - 1) * dilation + 1
    before, after = _padding(call, axis, (-(-size // stride) - 1) * stride + extent - size)
    free = size + before + after - extent
    out = (-(-free // stride) if ceil else free // stride) + 1
    if ceil and (out - 1) * stride >= size + before:  # a window must not begin in the padding
        out -= 1
    return out, Strided(kernel=extent, stride=stride, start=-before)


def _padding(call: Call, axis: int, same: int) -> tuple[int, int]:
    """Return the padding before and after an axis; auto_pad SAME_* shares out `same` samples."""
    pads = call.attribute("pads", [0, 0, 0, 0])
    auto = call.attribute("auto_pad", b"NOTSET")
    if auto not in (b"SAME_UPPER", b"SAME_LOWER"):
        return pads[axis], pads[axis + 2]
    smaller, larger = max(same, 0) // 2, (max(same, 0) + 1) // 2
    return (smaller, larger) if auto == b"SAME_UPPER" else (larger, smaller)


def _filters(call: Call, weight_at: int, *, transposed: bool = False) -> tuple[int, ...]:
    """Return the shape of a weight, which must fit its input, its bias and its attributes."""
    flow, group = call.flow, call.attribute("group", 1)
    shape = call.value(weight_at).shape
    if len(shape) != 4 or min(shape) < 1 or group < 1:
        raise call.refusal(f"needs a weight (out, in, h, w) and groups, got {shape} and {group}")
    inner, out = (shape[0], shape[1] * group) if transposed else (shape[1] * group, shape[0])
    if flow.shape[1] != inner or shape[0] % group:
        raise call.refusal(
            f"a weight of shape {shape} in {group} groups does not take {flow.shape[1]} channels"
        )
    bias = call.known(8 if call.op == "QLinearConv" else 2)
    if bias is not None and bias.value.shape != (out,):
        raise call.refusal(f"a bias of shape {bias.value.shape} does not go with {out} channels")
    kernel = call.attribute("kernel_shape")
    if kernel is not None and tuple(kernel) != shape[2:]:
        raise call.refusal(f"kernel_shape is {tuple(kernel)}, but its weight has kernels of {shape[2:]}")
    return tuple(shape)


def _check_lengths(call: Call) -> None:
    """Refuse windows that do not have two axes."""
    for name, count in (("strides", 2), ("dilations", 2), ("kernel_shape", 2), ("pads", 4)):
        values = call.attribute(name)
        if values is not None and len(values) != count:
            raise call.refusal(f"{name} must be {count} numbers, got {len(values)}")


def conv(call: Call, weight_at: int = 1) -> Results:
    """Trace Conv, or QLinearConv with its weight at input 3."""
    flow = call.images
    weight = _filters(call, weight_at)
    sides = [_window(call, flow.shape[2 + k], k, weight[2 + k]) for k in (0, 1)]
    return _slid(flow, weight[0], sides, flow.shape[0] * math.prod(weight))


def _slid(flow: Flow, channels: int, sides: list[tuple[int, Strided]], macs: int) -> Results:
    """Return the result of a sliding window that costs `macs` per position.

    A window that was cut out of the image by a reshape is a unit: a layer within it reads nothing outside
    it, and padding inside it is part of the model, the same in every window.
    """
    (h, y), (w, x) = sides
    axes = [flow.factors(0), (("c", channels),), ((flow.roles[2], h),), ((flow.roles[3], w),)]
    links = (y, x) if flow.is_spatial(2) else (IDENTITY, IDENTITY)
    return [(Flow.of(axes), *links, h * w * macs)]


def conv_transpose(call: Call) -> Results:
    """Trace ConvTranspose."""
    flow = call.image
    _check_lengths(call)
    weight = _filters(call, 1, transposed=True)
    if call.attribute("output_shape") is not None:
        raise call.refusal("a fixed output_shape does not fit other images")
    sizes, links = [], []
    for k, size in enumerate(flow.spatial):
        stride = call.attribute("strides", [1, 1])[k]
        extent = (weight[2 + k] - 1) * call.attribute("dilations", [1, 1])[k] + 1
        extra = call.attribute("output_padding", [0, 0])[k]
        pads = call.attribute("pads", [0, 0, 0, 0])
        if min(stride, extent) < 1 or min(extra, pads[k], pads[k + 2]) < 0:
            raise call.refusal(
                f"stride and kernel must be positive, pads not negative, got {stride}, {extent}, {pads}"
            )
        full = (size - 1) * stride + extent + extra
        before, after = _padding(call, k, full - size * stride)
        sizes.append(full - before - after)
        links.append(Transposed(extent, stride, before))
    out = replace(flow, shape=(flow.shape[0], weight[1] * call.attribute("group", 1), *sizes))
    return [(out, links[0], links[1], math.prod(flow.spatial) * math.prod(weight))]


def pool(call: Call) -> Results:
    """Trace AveragePool, LpPool or MaxPool."""
    flow = call.images
    if len([n for n in call.node.output if n]) > 1:
        raise call.refusal("its indices point anywhere in the image")
    kernel = call.attribute("kernel_shape")
    ceil = bool(call.attribute("ceil_mode", 0))
    sides = [_window(call, flow.shape[2 + k], k, kernel[k], ceil) for k in (0, 1)]
    return _slid(flow, flow.shape[1], sides, 0)
