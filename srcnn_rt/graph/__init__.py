"""What an ONNX graph says of itself: scale, margins, period, kind.

``analysis`` draws the conclusions from ``trace``, which runs the graph on shapes alone with
the operators of ``ops`` on the states of ``tensors``; ``fold`` computes what depends on shapes
alone, and ``reach`` holds the exact intervals.
"""

from .analysis import AxisFacts, GraphFacts, analyse, unbounded
from .trace import Interface

__all__ = ["AxisFacts", "GraphFacts", "Interface", "analyse", "unbounded"]
