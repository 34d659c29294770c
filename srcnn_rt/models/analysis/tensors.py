"""State of a tensor in a trace, and a node as its operator sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ..onnx_helpers import attributes
from .receptive_field import IDENTITY, Link

if TYPE_CHECKING:
    from onnx import NodeProto

IMAGE = ("ncyx", "ccyx")  # roles of (N, C, H, W); the N axis of a single image counts as channels
UNTILED = "so the model cannot be tiled; --no-tiling (tile=None) runs it on whole images"
_MAX_VALUES = 64  # in a list of axes or sizes: no tensor has as many axes


Factor = tuple[str, int]
"""Role (n, c, y or x) and size of one factor of an axis."""

Axis = tuple[Factor, ...]
"""Factors of one axis, outermost first."""


def axis_size(axis: Axis) -> int:
    """Return the number of samples along an axis."""
    return math.prod(n for _, n in axis)


def has_space(axis: Axis) -> bool:
    """Return whether an axis holds rows or columns."""
    return any(role in "yx" for role, _ in axis)


@dataclass(frozen=True, slots=True)
class Known:
    """A value that does not depend on the image's samples.

    Attributes
    ----------
    value : ndarray
        The value.
    sized : bool or ndarray of bool
        Whether it depends on the image's height or width: one answer for the whole value, or one per
        element, as for the elements of a shape.
    """

    value: NDArray[Any]
    sized: bool | NDArray[np.bool_] = False

    @property
    def by_size(self) -> bool:
        """Whether any element depends on the image's size."""
        return bool(np.any(self.sized))


@dataclass(frozen=True, slots=True)
class Flow:
    """A tensor whose samples depend on the image.

    Attributes
    ----------
    shape : tuple of int
        Its shape.
    roles : str
        One letter per axis: n (images), c (channels and everything else, sub-pixels too), y (rows),
        x (columns) or m (several of these). y and x occur once each.
    joined : tuple of (int, Axis)
        Index and factors of every axis m. For example, one axis may hold all windows of an image.
    """

    shape: tuple[int, ...]
    roles: str
    joined: tuple[tuple[int, Axis], ...] = ()

    @classmethod
    def of(cls, axes: Sequence[Axis]) -> Self:
        """Return the flow whose axes hold these factors."""
        roles = "".join(a[0][0] if len(a) == 1 else "m" for a in axes)
        joined = tuple((k, a) for k, a in enumerate(axes) if len(a) > 1)
        return cls(tuple(map(axis_size, axes)), roles, joined)

    def factors(self, axis: int) -> Axis:
        """Return the factors of an axis, outermost first."""
        return next((a for k, a in self.joined if k == axis), ((self.roles[axis], self.shape[axis]),))

    @property
    def axes(self) -> list[Axis]:
        """The factors of every axis."""
        return [self.factors(k) for k in range(len(self.shape))]

    def is_spatial(self, axis: int) -> bool:
        """Return whether an axis holds rows or columns."""
        return has_space(self.factors(axis))

    @property
    def spatial(self) -> tuple[int, int]:
        """Sizes of the y and the x axis."""
        if not self.joined:  # the usual case, and this property is read very often
            return self.shape[self.roles.index("y")], self.shape[self.roles.index("x")]
        sizes = dict(f for axis in self.axes for f in axis if f[0] in "yx")
        return sizes["y"], sizes["x"]


Result = tuple[Flow, Link, Link, int]
"""State of an output, its links on y and x, and the multiply-accumulates that it costs."""

Results = Sequence[Result]
"""One `Result` per output of a node."""


def unmoved(flow: Flow) -> Results:
    """Return the result of an operator that moves no sample along rows or columns."""
    return [(flow, IDENTITY, IDENTITY, 0)]


class Call:
    """A node with the states of its inputs, as an operator sees it.

    Parameters
    ----------
    node : NodeProto
        The node.
    states : dict of str to Known or Flow
        States of the tensors computed before it.

    Raises
    ------
    ModelError
        If an input is not among `states`.
    """

    def __init__(self, node: NodeProto, states: dict[str, Known | Flow]) -> None:
        self.node = node
        self.op = node.op_type
        self.inputs: list[Known | Flow | None] = []
        self._attributes: dict[str, Any] | None = None  # read many times over
        for name in node.input:
            if name and name not in states:
                raise self.refusal(f"input {name!r} has no source")
            self.inputs.append(states[name] if name else None)

    def refusal(self, reason: str) -> ModelError:
        """Return an error that names this node and its operator."""
        name = self.node.name or next(iter(self.node.output), "")
        return ModelError(f"node {name!r} ({self.op}): {reason}")

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value, or `default` if the node does not have it."""
        if self._attributes is None:
            self._attributes = attributes(self.node)
        return self._attributes.get(name, default)

    @property
    def flow(self) -> Flow:
        """The first input, which must be the only one that depends on the image."""
        first = self.inputs[0]
        if not isinstance(first, Flow) or any(isinstance(i, Flow) for i in self.inputs[1:]):
            raise self.refusal("its weights or sizes are computed from the image")
        return first

    @property
    def image(self) -> Flow:
        """`flow`, which must be (N, C, H, W)."""
        flow = self.flow
        if flow.roles not in IMAGE:
            raise self.refusal(f"works on (N, C, H, W), got axes {flow.roles!r}")
        return flow

    @property
    def images(self) -> Flow:
        """`image`, or windows cut out of an image: (windows, C, H, W), whose H and W are sub-pixels."""
        flow = self.flow
        if flow.roles[2:] == "cc" and len(flow.roles) == 4 and flow.is_spatial(0) and not flow.is_spatial(1):
            return flow
        return self.image

    def known(self, k: int) -> Known | None:
        """Return input k, or None if it is absent; it must not depend on the image."""
        if k >= len(self.inputs) or self.inputs[k] is None:
            return None
        state = self.inputs[k]
        if not isinstance(state, Known):
            raise self.refusal(f"input {k} must not depend on the image")
        return state

    def value(self, k: int) -> NDArray[Any]:
        """Return the value of input k, which must be present."""
        state = self.known(k)
        if state is None:
            raise self.refusal(f"input {k} is missing")
        return state.value

    def axis(self, axis: int, rank: int) -> int:
        """Return the index of an axis, which may be negative, of a tensor of `rank` axes."""
        if not -rank <= axis < rank:
            raise self.refusal(f"axis {axis} is out of range for {rank} axes")
        return axis % rank

    def numbers(self, k: int) -> list[Any]:
        """Return input k, such as axes or sizes, as a list."""
        value = self.value(k)
        if value.size > _MAX_VALUES:
            raise self.refusal(f"input {k} may hold at most {_MAX_VALUES} values, got {value.size}")
        return list(value.reshape(-1).tolist())

    def attribute_or_input(self, name: str, k: int) -> list[Any] | None:
        """Return a list that old operator sets have as an attribute and newer ones as input k."""
        values = self.attribute(name)
        if values is None and self.known(k) is not None:
            values = self.numbers(k)
        return None if values is None else list(values)
