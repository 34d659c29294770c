"""Quality on images that are not test photographs: python benchmarks/domains.py --scale 2

Every image is downscaled by the protocol's bicubic in its own type and unit, upscaled by each model through
`Engine`, and compared with the truth. PSNR is relative to the range of the image. The images come with
scikit-image and matplotlib; --scene adds a GeoTIFF. The status is 1 with --at-least A B if model A is below
model B on any image.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import skimage.data
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray

from srcnn_rt import Engine
from srcnn_rt.evaluation.protocol import imresize, modcrop
from srcnn_rt.image.color import luminance

Image = NDArray[np.float64]
PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "chelsea", "camera")
OTHERS = {
    "page (scanned text)": "page", "text": "text", "coins (museum)": "coins", "moon": "moon",
    "hubble (sky)": "hubble_deep_field", "retina": "retina", "ihc (tissue)": "immunohistochemistry",
    "cell (microscopy)": "cell", "brick": "brick", "grass": "grass", "gravel": "gravel",
}  # fmt: skip


def images(scene: Path | None) -> dict[str, tuple[Image, str]]:
    """Return gray images in the unit of their samples, and the type that they are upscaled in."""
    found: dict[str, tuple[Image, str]] = {}
    for title, name in ({p: p for p in PHOTOGRAPHS} | OTHERS).items():
        pixels = np.asarray(getattr(skimage.data, name)(), np.float64)
        found[title] = (luminance(pixels / 255) * 255 if pixels.ndim == 3 else pixels, "uint8")
    elevation = get_sample_data("jacksboro_fault_dem.npz")["elevation"]
    found["DEM (metres)"] = (elevation.astype(np.float64), "float32")
    found["camera, uint16 0..3000"] = (found["camera"][0] * (3000 / 255), "uint16")
    if scene is not None:
        import rasterio

        with rasterio.open(scene) as file:
            for band in file.indexes:
                found[f"{scene.stem}, band {band}"] = (file.read(band).astype(np.float64), "uint8")
    return found


def psnr(engine: Engine, truth: Image, dtype: str) -> float:
    scale = engine.scale
    truth = modcrop(truth, scale)
    small = imresize(truth, scale, down=True)
    if np.dtype(dtype).kind != "f":
        small = np.rint(small.clip(0, np.iinfo(dtype).max))
    got = engine.upscale(small.astype(dtype)).astype(np.float64)
    error = (got - truth)[scale:-scale, scale:-scale]
    return 20 * math.log10(np.ptp(truth)) - 10 * math.log10(float(np.mean(error * error)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument(
        "--models", nargs="+", help="default: bicubic and the bundled SRCNN and compact models"
    )
    parser.add_argument("--scene", type=Path, help="a GeoTIFF of 8 bits")
    parser.add_argument("--at-least", nargs=2, metavar=("A", "B"))
    args = parser.parse_args()
    families = ("bicubic", "srcnn-915", "srcnn-955", "compact-m4c16", "compact-m10c32")
    models = args.models or [f"{family}-x{args.scale}" for family in families]
    engines = [Engine(name) for name in models]
    names = [engine.spec.name for engine in engines]
    print("| image | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    worse = []
    for title, (truth, dtype) in images(args.scene).items():
        row = dict(zip(names, (psnr(engine, truth, dtype) for engine in engines), strict=True))
        print(f"| {title} | " + " | ".join(f"{v:.2f}" for v in row.values()) + " |")
        if args.at_least and row[args.at_least[0]] < row[args.at_least[1]]:
            worse.append(title)
    if worse:
        sys.exit(f"{args.at_least[0]} is below {args.at_least[1]} on: {', '.join(worse)}")


if __name__ == "__main__":
    main()
