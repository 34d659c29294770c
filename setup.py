"""The one compiled part: the tiler's loops. Everything else is in pyproject.toml."""

import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

# Contraction is off so that a sample's value never depends on which loop computed it.
FLAGS = (
    [] if sys.platform == "win32" else ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
)

setup(
    ext_modules=cythonize(
        [
            Extension(
                "srcnn_rt._tiles",
                ["_ext/_tiles.pyx"],
                include_dirs=["_ext"],
                depends=["_ext/rows.h", "_ext/enlarge.h"],
                extra_compile_args=FLAGS,
            )
        ]
    )
)
