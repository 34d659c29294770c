"""Compare estimates with real jobs: python benchmarks/preflight.py DIR [--seconds]

Images of DIR are halved, so that they are as sharp as small images are, written as TIFF or PNG, and upscaled.
For each kind of job, prints where the true size lies in the estimated range: file over low end and file over
high end. A file outside its range fails the run. With --seconds, images are repeated to some megapixels, and
the time of the job over the estimated time is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from srcnn_rt import Engine

KINDS = ((1, "uint8"), (3, "uint8"), (1, "uint16"), (3, "uint16"), (1, "float32"))
JOBS = [("tif", "tif", {"compress": c}) for c in ("deflate", "zstd", "lzw")]
JOBS += [("tif", "tif", {"cog": True}), ("png", "png", {}), ("png", "tif", {}), ("png", "jpg", {})]


def make_images(folder: Path, channels: int, dtype: str, count: int) -> list[NDArray[np.generic]]:
    """Return images of a folder, halved before they are rounded."""
    out = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg"))[:count]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
        h, w = (n // 2 for n in image.shape[:2])
        small = cv2.resize(image.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA) / 255
        if channels == 3:
            small = small[..., ::-1]
        maximum = {"uint8": 255, "uint16": 65535, "float32": None}[dtype]
        out.append((small if maximum is None else np.rint(small * maximum)).astype(dtype))
    return out


def write(path: Path, image: NDArray[np.generic]) -> None:
    if path.suffix == ".png":
        cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
        return
    photometric = "rgb" if image.ndim == 3 else "minisblack"
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric=photometric, compression="deflate", predictor=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["srcnn-915-x2", "srcnn-915-x4"])
    parser.add_argument("--count", type=int, default=12, help="number of images of the folder")
    parser.add_argument("--seconds", action="store_true", help="repeat each image to some Mpx, and time")
    args = parser.parse_args()
    print("| model | samples | job | file / low end | file / high end | seconds / estimated |")
    print("|---|---|---|---:|---:|---:|")
    outside = 0
    for model in args.models:
        with Engine(model, provider="cpu", tile="auto") as engine, tempfile.TemporaryDirectory() as name:
            for channels, dtype in KINDS:
                images = make_images(args.folder, channels, dtype, args.count)
                for source, target, options in JOBS:
                    if (dtype == "float32" and "png" in (source, target)) or (
                        dtype != "uint8" and target == "jpg"
                    ):
                        continue
                    over_low, over_high, times = [], [], []
                    for image in images:
                        if args.seconds:
                            image = np.tile(image, (6, 6) + (1,) * (image.ndim - 2))
                        a, b = Path(name, f"a.{source}"), Path(name, f"b.{target}")
                        write(a, image)
                        found = engine.estimate(a, b, overwrite=True, **options)
                        report = engine.upscale_file(a, b, overwrite=True, **options)
                        low, high = found.file_bytes
                        size = b.stat().st_size
                        outside += not low <= size <= high
                        over_low.append(size / max(1, low))
                        over_high.append(size / high)
                        times.append(report.seconds / (found.seconds or 1))
                    words = options.get("compress", "cog" if options else "")
                    timed = f"{statistics.median(times):.2f}" if args.seconds else ""
                    kind = f"{'gray' if channels == 1 else 'RGB'} {dtype}"
                    job = f"{source} → {target} {words}".strip()
                    print(
                        f"| {model} | {kind} | {job} | {spread(over_low)} | {spread(over_high)} | {timed} |",
                        flush=True,
                    )
    print(f"\n{outside} files outside their range")
    sys.exit(outside > 0)


def spread(values: list[float]) -> str:
    """Return median, minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
