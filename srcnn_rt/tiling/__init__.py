"""Tiling: the geometry of windows and chunks, and the kernels that extract and stitch them."""
