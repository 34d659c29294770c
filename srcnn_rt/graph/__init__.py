"""What an ONNX graph says of itself: scale, margins, period, kind.

``analysis`` draws the conclusions from ``trace``, which runs the graph on shapes alone with
the operators of ``ops`` on the states of ``tensors``; ``fold`` computes what depends on shapes
alone, and ``reach`` holds the exact intervals. ``guard`` comes before all of them: what is
refused of a stranger's file before anything is computed from it. ``equivariance`` tells which models
need no range of values.
"""

from .adapt import Shaping, adapt, needs_shaping
from .analysis import AxisFacts, GraphFacts, analyse, unbounded
from .equivariance import is_equivariant
from .external import inline
from .guard import check
from .trace import Interface
from .untraced import check_sizes

__all__ = [
    "AxisFacts",
    "GraphFacts",
    "Interface",
    "Shaping",
    "adapt",
    "analyse",
    "check",
    "check_sizes",
    "inline",
    "is_equivariant",
    "needs_shaping",
    "unbounded",
]
