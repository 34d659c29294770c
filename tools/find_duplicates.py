"""Find training images that show what a test image shows.

python tools/find_duplicates.py TRAIN_DIR... --eval TEST_DIR...

Compares local features of every pair (SIFT, which scale, rotation and crops do not change) and prints the
pairs whose matches agree on one similarity transform. Exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from srcnn_rt.evaluation.protocol import list_images

MIN_MATCHES = 12  # that agree on one transform; unrelated photographs have up to 6


def features(path: Path, detector: Any) -> tuple[Any, Any]:
    """Return key points and descriptors of an image."""
    gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if gray is None:
        sys.exit(f"{path}: cannot be read")
    return detector.detectAndCompute(gray, None)


def agreeing(a: tuple[Any, Any], b: tuple[Any, Any]) -> int:
    """Return the number of matches that agree on one similarity transform."""
    if a[1] is None or b[1] is None or min(len(a[0]), len(b[0])) < MIN_MATCHES:
        return 0
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(a[1], b[1], k=2)
    good = [m for m, other in pairs if m.distance < 0.75 * other.distance]
    if len(good) < MIN_MATCHES:
        return 0
    source = np.array([a[0][m.queryIdx].pt for m in good])
    target = np.array([b[0][m.trainIdx].pt for m in good])
    _, inside = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=3)
    # Many matches to one point of a repeating pattern agree on a transform that shrinks everything.
    kept = [] if inside is None else target[inside[:, 0] == 1]
    return len(np.unique(np.rint(kept), axis=0)) if len(kept) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("train", type=Path, nargs="+")
    parser.add_argument("--eval", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    detector = cv2.SIFT_create(1500)
    tests = {p: features(p, detector) for folder in args.eval for p in list_images(folder)}
    count = found = 0
    highest = 0
    for folder in args.train:
        for path in list_images(folder):
            count += 1
            own = features(path, detector)
            for test, other in tests.items():
                matches = agreeing(own, other)
                highest = max(highest, matches if matches < MIN_MATCHES else 0)
                if matches >= MIN_MATCHES:
                    found += 1
                    print(f"{path} and {test}: {matches} matches")
    print(f"{count} training images, {len(tests)} test images: {found} pairs")
    print(f"all other pairs agree in at most {highest} matches, {MIN_MATCHES} are needed")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
