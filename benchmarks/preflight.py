"""Estimates against real jobs: python benchmarks/preflight.py DIR [--seconds]

Images of DIR are halved, so that they are as sharp as small ones are, put side by side, written as TIFF and
as PNG, and upscaled. A line a kind: bytes of the file over those expected, and over those that were surely
needed, which must never be more; seconds over those expected with --seconds, peak memory.
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


def make_images(folder: Path, channels: int, dtype: str, many: int) -> list[NDArray[np.generic]]:
    """Return images of a kind, halved before they are rounded."""
    out = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg"))[:many]:
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
    parser.add_argument("--many", type=int, default=12, help="images of the folder")
    parser.add_argument("--seconds", action="store_true", help="repeat each image to some Mpx, and time")
    args = parser.parse_args()
    print(
        "| model | samples | job | file / expected | least / file | seconds / expected |\n"
        "|---|---|---|---|---:|---:|"
    )
    worst = 0.0
    for model in args.models:
        with Engine(model, "cpu", "auto") as engine, tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for channels, dtype in KINDS:
                images = make_images(args.folder, channels, dtype, args.many)
                for source, target, options in JOBS:
                    if dtype == "float32" and "png" in (source, target):
                        continue
                    if target == "jpg" and dtype != "uint8":
                        continue
                    ratios, surely, times = [], [], []
                    for image in images:
                        if args.seconds:
                            image = np.tile(image, (6, 6) + (1,) * (image.ndim - 2))
                        a, b = folder / f"a.{source}", folder / f"b.{target}"
                        write(a, image)
                        found = engine.estimate(a, b, overwrite=True, **options)
                        report = engine.upscale_file(a, b, overwrite=True, **options)
                        ratios.append(b.stat().st_size / found.file_bytes)
                        surely.append(found.min_bytes / b.stat().st_size)
                        times.append(report.seconds / (found.seconds or 1))
                    worst = max(worst, *surely)
                    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                    words = options.get("compress", "cog" if options else "")
                    timed = f"{statistics.median(times):.2f}" if args.seconds else ""
                    job = f"{source} → {target} {words}".strip()
                    kind = f"{'gray' if channels == 1 else 'RGB'} {dtype}"
                    print(
                        f"| {model} | {kind} | {job} | {spread} | {max(surely):.2f} | {timed} |", flush=True
                    )
    print(
        f"\nmost of what was surely needed: {worst:.2f} of the file, {'fine' if worst <= 1 else 'TOO MUCH'}"
    )
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
