"""Compare the rounding errors of fast filters for 3x3 chains: python benchmarks/fast_filters.py [MODEL ...]

Each network is computed by NumPy in float32 and in float64, directly and by fast filters with different
points, on the synthetic image, which has flat areas and edges, and on noise. Printed are the largest and the
RMS difference to float64, in 10⁻⁷ of full scale. The native backend uses the last of them
(``_ext/conv_chain.h``).
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from srcnn_rt.backends.chain_kernel import ACROSS, DOWN, fast_filter
from srcnn_rt.models import conv_chain, prepare, spec
from srcnn_rt.models.low_precision.loss import noise_image, synthetic_image

MODELS = ["compact-m4c16-x2", "compact-m10c32-x2", "compact-m10c32-x3", "compact-m10c32-x4"]
USUAL = (0, 1, -1, 2, -2)
WAYS = {
    "direct, as trained": None,
    "direct, first layer from differences": (),
    "F(4,3) x F(4,3), usual points": (USUAL, USUAL),
    "F(4,3) x F(4,3)": (ACROSS, ACROSS),
    "F(2,3) x F(4,3)": (DOWN, ACROSS),
}

Array = NDArray[np.floating]


def transforms(points: tuple[float, ...]) -> tuple[Array, Array]:
    """Return B' and A' of a fast filter."""
    at = np.array(points, float)
    samples = [np.poly(np.delete(at, k))[::-1] for k in range(len(at))]
    spread = np.vstack([np.column_stack([samples, np.zeros(len(at))]), np.poly(at)[::-1]])
    outputs = len(at) - 1
    gather = np.column_stack([at ** np.arange(outputs)[:, None], np.arange(outputs) == outputs - 1])
    return spread.astype(np.float32), gather.astype(np.float32)


def fast(x: Array, weight: Array, points: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    """Return the convolution of (C, h, w) by fast filters in float32."""
    (spread_y, gather_y), (spread_x, gather_x) = (transforms(p) for p in points)
    rows, columns = len(gather_y), len(gather_x)
    h, w = x.shape[1] - 2, x.shape[2] - 2
    padded = np.pad(x, ((0, 0), (0, -h % rows), (0, -w % columns)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (rows + 2, columns + 2), (1, 2))
    tiles = np.einsum("iy,cabyx->cabix", spread_y, views[:, ::rows, ::columns])
    tiles = np.einsum("jx,cabix->cabij", spread_x, tiles)
    g = np.einsum("iy,ocyx,jx->ocij", fast_filter(points[0]), weight.astype(float), fast_filter(points[1]))
    sums = np.zeros((len(weight), *tiles.shape[1:]), np.float32)
    for c, tile in enumerate(tiles):
        sums += tile * g[:, c, None, None].astype(np.float32)
    found = np.einsum("qi,oabij->oabqj", gather_y, sums)
    found = np.einsum("rj,oabqj->oaqbr", gather_x, found)
    return found.reshape(len(weight), *(n + -n % k for n, k in ((h, rows), (w, columns))))[:, :h, :w]


def direct(x: Array, weight: Array) -> Array:
    """Return the convolution of (C, h, w) in its own type."""
    views = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    return np.einsum("chwyx,ocyx->ohw", views, weight.astype(x.dtype))


def from_differences(x: Array, weight: Array) -> Array:
    """Return the same from differences to the central sample."""
    centre = x[:, 1:-1, 1:-1]
    views = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2)) - centre[..., None, None]
    total = weight.astype(float).sum((2, 3)).astype(x.dtype)
    return np.einsum("chwyx,ocyx->ohw", views, weight.astype(x.dtype)) + np.tensordot(total, centre, 1)


def network(chain: conv_chain.Chain, x: Array, way: tuple[tuple[float, ...], ...] | None) -> Array:
    """Return the channels before depth-to-space."""
    for k, layer in enumerate(chain.layers):
        if way is None or (k and not way):
            x = direct(x, layer.weight)
        else:
            x = fast(x, layer.weight, (way[0], way[1])) if k else from_differences(x, layer.weight)
        x = x + layer.bias[:, None, None].astype(x.dtype)
        if layer.slope is not None:
            x = np.where(x < 0, x * layer.slope[:, None, None].astype(x.dtype), x)
    return x


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    models = parser.parse_args().models
    print("| |", " | ".join(models), "|\n|---|", "--:|" * len(models))
    found: dict[str, list[str]] = {name: [] for name in WAYS}
    for model in models:
        chain = conv_chain.find(spec.parse(prepare.network_program(*spec.load(model)).data))
        assert isinstance(chain, conv_chain.Chain)
        # The last window of the synthetic image is one in which the first tiles are flat next to an edge.
        images = [
            synthetic_image(64, 0),
            synthetic_image(64, 1),
            noise_image(48, 0),
            synthetic_image(76, 0)[:54, :54],
        ]
        exact = [network(chain, image[None].astype(float), None) for image in images]
        for name, way in WAYS.items():
            errors = [network(chain, i[None], way) - e for i, e in zip(images, exact, strict=True)]
            largest = max(np.abs(e).max() for e in errors)
            rms = np.sqrt(np.mean([np.mean(e**2) for e in errors]))
            found[name].append(f"{1e7 * largest:.1f} / {1e7 * rms:.2f}")
    for name, row in found.items():
        print("|", name, "|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
