"""Nodes that map each pixel on its own, and chains of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..onnx_helpers import STANDARD_DOMAINS
from .graph_edit import Conv, Edit

if TYPE_CHECKING:
    from onnx import NodeProto

_UNARY = frozenset((
    "Abs", "Cast", "Clip", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish",
    "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
))  # fmt: skip
_WITH_CONSTANT = frozenset(("Add", "Div", "Max", "Min", "Mul", "PRelu", "Sub"))


def is_pointwise(edit: Edit, node: NodeProto, source: str) -> bool:
    """Return whether a node maps each pixel of `source` on its own, in the same way everywhere."""
    if node.domain not in STANDARD_DOMAINS or len(node.output) != 1:
        return False
    others = [n for n in node.input if n and n != source]
    arrays = [edit.array(n) for n in others]
    if any(a is None for a in arrays) or len(others) + 1 != sum(map(bool, node.input)):
        return False
    if node.op_type in _UNARY:
        return bool(node.input[0] == source)
    if node.op_type in _WITH_CONSTANT:
        return all(a is not None and a.shape[-2:] in ((), (1,), (1, 1)) for a in arrays)
    conv = Conv.of(edit, node)
    return conv is not None and conv.kernel == conv.stride == (1, 1) and not any(conv.pads)


def _follow(edit: Edit, name: str) -> tuple[list[NodeProto], str]:
    """Return the chain of pointwise nodes behind a tensor, and its last output."""
    chain = []
    while (user := edit.only_user(name)) is not None and is_pointwise(edit, user, name):
        chain.append(user)
        name = user.output[0]
    return chain, name


def only_pointwise_to_output(edit: Edit, name: str) -> bool:
    """Return whether `name` is the graph's output, or becomes it pixel by pixel."""
    return _follow(edit, name)[1] in edit.outputs


def chain_to_last_layer(edit: Edit, name: str) -> tuple[list[NodeProto], Conv] | None:
    """Return the pointwise nodes behind a tensor and the plain convolution that they lead to.

    The result is None if there is no such convolution, or if it does not make the graph's output pixel by
    pixel.
    """
    between, name = _follow(edit, name)
    last = Conv.of(edit, edit.only_user(name))
    if last is None or not last.plain or not only_pointwise_to_output(edit, last.node.output[0]):
        return None
    return between, last
