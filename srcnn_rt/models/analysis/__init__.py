"""What an ONNX graph says of itself: scale, margins, period, kind.

``analysis`` draws the conclusions from ``trace``, which runs the graph on shapes alone with
the operators of ``ops`` on the states of ``tensors``; ``fold`` computes what depends on shapes
alone, and ``reach`` holds the exact intervals. ``guard`` comes before all of them: what is
refused of a stranger's file before anything is computed from it. ``equivariance`` tells which models
need no range of values.
"""

from .equivariance import is_equivariant
from .external_data import inline
from .facts import AxisFacts, GraphFacts, analyse, unbounded
from .interface import Shaping, adapt, needs_shaping
from .trace import Interface
from .untiled import check_sizes
from .validation import check

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
