"""Analysis of an ONNX graph: scale, margins, period, kind and valid sizes.

- `validation` refuses untrusted models before anything is computed from them.
- `trace` runs the graph on shapes alone, with the operators of `ops` on the states of `tensors`.
- `shape_folding` computes values that depend on shapes alone.
- `receptive_field` holds the exact input interval of an output interval.
- `facts` derives the results from these.
- `equivariance` recognises models that work in every range of values.
"""

from .equivariance import is_equivariant
from .external_data import inline_external_data
from .facts import AxisFacts, GraphFacts, analyse, untiled_facts
from .interface import InterfaceOptions, adapt, needs_adapting
from .trace import Interface
from .untiled import check_sizes
from .validation import validate

__all__ = [
    "AxisFacts", "GraphFacts", "Interface", "InterfaceOptions", "adapt", "analyse", "check_sizes",
    "inline_external_data", "is_equivariant", "needs_adapting", "untiled_facts", "validate",
]  # fmt: skip
