"""Upscale a photograph and show nearest, bicubic and the network side by side (``make demo``)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from srcnn_rt import Engine, SrcnnError

PHOTOGRAPH = Path(__file__).parent.parent / "examples" / "chelsea.png"
CROP = (66, 124, 80, 104)  # y, x, height, width in the photograph: an eye and the fur around it
ZOOM = 2  # the crop is magnified by repeating pixels, so that every HR pixel can be seen


def label(image: np.ndarray, text: str) -> np.ndarray:
    """Put a white strip with a title above a BGR image."""
    strip = np.full((34, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def side_by_side(lr: np.ndarray, bicubic: np.ndarray, network: np.ndarray, scale: int) -> np.ndarray:
    """Return the crop of all three methods, titled, as BGR uint8."""
    y, x, h, w = CROP
    nearest = np.repeat(np.repeat(lr, scale, axis=0), scale, axis=1)
    panels = []
    for text, image in (("nearest", nearest), ("bicubic", bicubic), ("srcnn-rt", network)):
        crop = image[y * scale : (y + h) * scale, x * scale : (x + w) * scale]
        crop = np.repeat(np.repeat(crop, ZOOM, axis=0), ZOOM, axis=1)
        panels.append(
            cv2.copyMakeBorder(label(crop, text), 0, 0, 4, 4, cv2.BORDER_CONSTANT, value=(255,) * 3)
        )
    return np.hstack(panels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--scale", type=int, default=3, choices=[2, 3, 4])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    result = args.out / f"{PHOTOGRAPH.stem}_x{args.scale}.png"
    comparison = args.out / f"{PHOTOGRAPH.stem}_x{args.scale}_side_by_side.png"
    try:
        with Engine(f"srcnn-915-x{args.scale}") as engine:
            report = engine.upscale_file(PHOTOGRAPH, result, overwrite=True)
    except SrcnnError as error:
        sys.exit(f"error: {error}")
    lr = cv2.imread(str(PHOTOGRAPH))
    with Engine(f"bicubic-x{args.scale}", provider="cpu") as plain:
        bicubic = np.ascontiguousarray(plain.upscale(np.ascontiguousarray(lr[..., ::-1]))[..., ::-1])
    image = side_by_side(lr, bicubic, cv2.imread(str(result)), args.scale)
    if not cv2.imwrite(str(comparison), image, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        sys.exit(f"error: {comparison}: cannot be written")
    (w, h), (hr_w, hr_h) = report.source_size, report.target_size
    print(f"{PHOTOGRAPH.name}: {w} x {h} → {hr_w} x {hr_h} with {report.model} on {report.provider}")
    print(f"in {report.seconds:.2f} s, {report.mpx_per_s:.1f} Mpx/s, files included")
    print(f"the result:    {result}")
    print(f"side by side:  {comparison}")


if __name__ == "__main__":
    main()
