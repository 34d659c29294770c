"""The compiled parts: the loops of the tiler and of the native backend, and deflate."""

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# Contraction is off so that a sample's value never depends on which loop computed it.
FLAGS = (
    [] if sys.platform == "win32" else ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
)
# Here sums of products are contracted, in the same order for every sample. It needs GCC or Clang.
CONV = [
    Extension(
        "srcnn_rt._conv",
        ["_ext/_conv.pyx"],
        include_dirs=["_ext"],
        depends=[str(path) for path in Path("_ext").glob("*.h")],
        extra_compile_args=[*(f for f in FLAGS if "contract" not in f), "-ffp-contract=fast"],
    )
] * (sys.platform != "win32")

setup(
    ext_modules=cythonize(
        [
            Extension(
                "srcnn_rt._tiles",
                ["_ext/_tiles.pyx"],
                include_dirs=["_ext"],
                depends=["_ext/rows.h", "_ext/enlarge.h"],
                extra_compile_args=FLAGS,
            ),
            Extension(
                "srcnn_rt._deflate",
                ["_ext/_deflate.pyx"],
                include_dirs=["_ext"],
                depends=["_ext/deflate.h"],
                extra_compile_args=FLAGS,
            ),
            *CONV,
        ]
    )
)
