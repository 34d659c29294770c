"""Print the cost of each GPU variant of a graph: python benchmarks/variants.py [MODEL ...]

The cost is computed by `srcnn_rt.models.optimize.tensor_core_cost`, which counts and does not measure.
"""

from __future__ import annotations

import argparse

from srcnn_rt.models import analysis, optimize, spec
from srcnn_rt.models.optimize.tensor_core_cost import tensor_work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["srcnn-915-x2", "srcnn-955-x2"])
    args = parser.parse_args()
    print(
        "| model | variant | useful MACs per pixel | executed | bytes moved | cost "
        "| margin | period | nodes |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in args.models:
        data, described = spec.load(name)
        for key, made in optimize.variants(spec.parse(data)).items():
            work, facts = tensor_work(made), analysis.analyse(made)
            print(
                f"| {described.name} | {key} | {work.useful:.0f} | {work.executed:.0f} | {work.moved:.0f} "
                f"| {work.cost:.0f} | {facts.margin} | {facts.period} | {len(made.graph.node)} |"
            )


if __name__ == "__main__":
    main()
