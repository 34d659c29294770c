"""The states of a tensor in a trace, and a node as its operator sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from .receptive_field import Link

if TYPE_CHECKING:
    from onnx import NodeProto


FAR = 2**31 - 1  # an end of a slice that means "to the end"
STANDARD = ("", "ai.onnx")
IMAGE = ("ncyx", "ccyx")  # roles of (N, C, H, W); of a single image N is an axis like any other
UNTILED = "so the model cannot be tiled; --no-tiling (tile=None) runs it on whole images"
_MAX_NUMBERS = 64  # in a list of axes or sizes: no tensor has as many axes


Factor = tuple[str, int]  # one of n, c, y and x, and how many of it


@dataclass(frozen=True, slots=True)
class Known:
    """A value that does not depend on the image's samples.

    `sized` says whether it depends on the image's height or width: of the whole value, or an array that
    says it of each of its numbers, as of a shape's.
    """

    value: NDArray[Any]
    sized: bool | NDArray[np.bool_] = False

    @property
    def by_size(self) -> bool:
        """Whether any number of it depends on the image's size."""
        return bool(np.any(self.sized))


@dataclass(frozen=True, slots=True)
class Flow:
    """A tensor of samples: ``roles`` says what each axis is, of n, c, y, x and m.

    y and x occur once each, n where there are several images; c is everything else, sub-pixels too.
    An axis m holds several of these, as windows of an image that are told apart by one number do; `joined`
    lists them for its number, outermost first.
    """

    shape: tuple[int, ...]
    roles: str
    joined: tuple[tuple[int, tuple[Factor, ...]], ...] = ()

    @classmethod
    def of(cls, axes: Sequence[tuple[Factor, ...]]) -> Self:
        """Return the flow whose axes hold these factors."""
        roles = "".join(a[0][0] if len(a) == 1 else "m" for a in axes)
        joined = tuple((k, a) for k, a in enumerate(axes) if len(a) > 1)
        return cls(tuple(math.prod(n for _, n in a) for a in axes), roles, joined)

    def factors(self, axis: int) -> tuple[Factor, ...]:
        """Return what an axis holds, outermost first."""
        for k, found in self.joined:
            if k == axis:
                return found
        return ((self.roles[axis], self.shape[axis]),)

    @property
    def axes(self) -> list[tuple[Factor, ...]]:
        """The factors of every axis."""
        return [self.factors(k) for k in range(len(self.shape))]

    def is_spatial(self, axis: int) -> bool:
        """Return whether an axis holds rows or columns."""
        return any(role in "yx" for role, _ in self.factors(axis))

    @property
    def spatial(self) -> tuple[int, int]:
        """Sizes of the y and the x axis."""
        if not self.joined:  # as nearly always; asked for very often
            return self.shape[self.roles.index("y")], self.shape[self.roles.index("x")]
        sizes = dict(f for axis in self.axes for f in axis if f[0] in "yx")
        return sizes["y"], sizes["x"]


# Of each output: its state, its links on y and x, and multiply-accumulates.
Results = Sequence[tuple[Flow, Link, Link, int]]


class Call:
    """A node with the states of its inputs, as an operator sees it."""

    def __init__(self, node: NodeProto, states: dict[str, Known | Flow]) -> None:
        self.node = node
        self.op = node.op_type
        self.inputs: list[Known | Flow | None] = []
        self._attributes: dict[str, Any] | None = None
        for name in node.input:
            if name and name not in states:
                raise self.refusal(f"input {name!r} has no source")
            self.inputs.append(states[name] if name else None)

    def refusal(self, reason: str) -> ModelError:
        """Return the error that names this node and its op."""
        name = self.node.name or next(iter(self.node.output), "")
        return ModelError(f"node {name!r} ({self.op}): {reason}")

    def attribute(self, name: str, default: Any = None) -> Any:
        if self._attributes is None:  # looked at many times over
            from onnx import helper

            self._attributes = {}
            for a in self.node.attribute:
                self._attributes.setdefault(a.name, helper.get_attribute_value(a))
        return self._attributes.get(name, default)

    @property
    def flow(self) -> Flow:
        """The first input, which must be a flow, and the only one."""
        first = self.inputs[0]
        if not isinstance(first, Flow) or any(isinstance(i, Flow) for i in self.inputs[1:]):
            raise self.refusal("its weights or sizes are computed from the image")
        return first

    @property
    def image(self) -> Flow:
        """The same, which must be (N, C, H, W)."""
        flow = self.flow
        if flow.roles not in IMAGE:
            raise self.refusal(f"works on (N, C, H, W), got axes {flow.roles!r}")
        return flow

    @property
    def images(self) -> Flow:
        """The same, or windows cut out of an image: (windows, C, H, W), whose H and W are sub-pixels."""
        flow = self.flow
        if flow.roles[2:] == "cc" and len(flow.roles) == 4 and flow.is_spatial(0) and not flow.is_spatial(1):
            return flow
        return self.image

    def known(self, k: int) -> Known | None:
        """Return input k if it is there; it must not depend on the image."""
        if k >= len(self.inputs) or self.inputs[k] is None:
            return None
        state = self.inputs[k]
        if not isinstance(state, Known):
            raise self.refusal(f"input {k} must not depend on the image")
        return state

    def value(self, k: int) -> NDArray[Any]:
        """Return the value of input k, which must be there."""
        state = self.known(k)
        if state is None:
            raise self.refusal(f"input {k} is missing")
        return state.value

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis counted from the first; it must be one of `rank`."""
        if not -rank <= axis < rank:
            raise self.refusal(f"axis {axis} is none of {rank}")
        return axis % rank

    def numbers(self, k: int) -> list[Any]:
        """Return input k, axes or sizes or the like, as a list."""
        value = self.value(k)
        if value.size > _MAX_NUMBERS:
            raise self.refusal(f"input {k} may hold at most {_MAX_NUMBERS} numbers, got {value.size}")
        return list(value.reshape(-1).tolist())
