"""Evaluation results as Markdown tables and as a contact sheet of crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .runner import Protocol, Result, Score

CROP = 48  # side of a crop in HR pixels
ZOOM = 4  # magnification of crops
_GAP, _TITLE_HEIGHT = 6, 22


def per_image(result: Result) -> str:
    """Return the scores of one folder as a Markdown table: a row per image, a column per method."""
    methods = list(result.scores)
    images = list(result.scores[methods[0]])
    lines = [
        f"{result.folder}: {result.protocol}",
        "",
        "| image | " + " | ".join(methods) + " |",
        "|---|" + "---:|" * len(methods),
    ]
    for name in images:
        lines.append(f"| {name} | " + " | ".join(_cell(result.scores[m][name]) for m in methods) + " |")
    lines.append("| **mean** | " + " | ".join(_cell(result.mean(m)) for m in methods) + " |")
    lines += ["", "PSNR in dB / SSIM / MS-SSIM"]
    return "\n".join(lines)


def summary(results: Sequence[Result], speeds: Mapping[Protocol, Mapping[str, float]] | None = None) -> str:
    """Return the mean scores as a Markdown table: a row per method and protocol, a column per folder.

    Parameters
    ----------
    results : sequence of Result
    speeds : mapping, optional
        HR megapixels per second of each method, for a further column.
    """
    folders = list(dict.fromkeys(r.folder for r in results))
    lines = [
        "| model | scale | degradation | "
        + " | ".join([f"{f}, PSNR / SSIM" for f in folders] + ["Mpx/s"] * bool(speeds))
        + " |",
        "|---|---|---|" + "---:|" * (len(folders) + bool(speeds)),
    ]
    for protocol in dict.fromkeys(r.protocol for r in results):
        by_folder = {r.folder: r for r in results if r.protocol == protocol}
        degradation = str(protocol.degradation) + (", RGB" if protocol.channels == "rgb" else "")
        for method in dict.fromkeys(m for r in by_folder.values() for m in r.scores):
            cells = []
            for folder in folders:
                found = folder in by_folder and method in by_folder[folder].scores
                score = by_folder[folder].mean(method) if found else None
                cells.append(f"{score.psnr:.2f} / {score.ssim:.4f}" if score else "")
            if speeds:
                cells.append(f"{speeds[protocol][method]:.2f}")
            lines.append(f"| {method} | ×{protocol.scale} | {degradation} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(score: Score) -> str:
    ms_ssim = "–" if score.ms_ssim is None else f"{score.ms_ssim:.4f}"
    return f"{score.psnr:.2f} / {score.ssim:.4f} / {ms_ssim}"


class Sheet:
    """A contact sheet: a row per image with the same crop of the ground truth and of every method.

    The crop is where the first and the last method differ most.
    """

    def __init__(self) -> None:
        self._rows: list[NDArray[np.uint8]] = []

    def add(self, name: str, images: Mapping[str, NDArray[np.float64]]) -> None:
        """Add a row.

        Parameters
        ----------
        name : str
            Title of the row.
        images : mapping of str to ndarray, shape (H, W) or (H, W, 3)
            8-bit code values by title: ``"truth"``, then the methods.
        """
        crop = min(CROP, *(min(p.shape[:2]) for p in images.values()))
        methods = [title for title in images if title != "truth"]
        a, b = images[methods[0]], images[methods[-1] if len(methods) > 1 else "truth"]
        y, x = _largest_sum(np.abs(a - b), crop)
        titles = (f"{name}: {title}" if title == "truth" else title for title in images)
        crops = (image[y : y + crop, x : x + crop] for image in images.values())
        self._rows.append(np.hstack(list(map(_titled_crop, crops, titles))))

    def image(self) -> NDArray[np.uint8]:
        """Return the sheet as an image.

        Returns
        -------
        ndarray, shape (H, W, 3), uint8
            In the order B, G, R.

        Raises
        ------
        ValueError
            If the sheet is empty.
        """
        width = max(r.shape[1] for r in self._rows)
        rows = [
            np.pad(r, ((0, _GAP), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in self._rows
        ]
        return np.vstack(rows)


def _largest_sum(difference: NDArray[np.float64], size: int) -> tuple[int, int]:
    """Return the corner (y, x) of the window of `size` with the largest sum."""
    plane = difference if difference.ndim == 2 else difference.sum(axis=2)
    total = np.pad(plane.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x)


def _titled_crop(crop: NDArray[np.float64], title: str) -> NDArray[np.uint8]:
    codes = crop.astype(np.uint8)
    bgr = np.repeat(codes[..., None], 3, axis=2) if codes.ndim == 2 else codes[..., ::-1]
    big = np.repeat(np.repeat(bgr, ZOOM, axis=0), ZOOM, axis=1)
    strip = np.full((_TITLE_HEIGHT, big.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title[:30], (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.pad(np.vstack([strip, big]), ((0, 0), (0, _GAP), (0, 0)), constant_values=255)
