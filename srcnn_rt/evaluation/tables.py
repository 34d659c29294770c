"""Evaluations as people read them: Markdown tables, and a sheet of crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .runner import Result, Score

CROP = 48  # HR pixels a crop shows
ZOOM = 4  # every HR pixel is drawn this often on each side
_GAP, _STRIP = 6, 22


def per_image(result: Result) -> str:
    """Return one folder as a Markdown table: a row an image, PSNR / SSIM / MS-SSIM a method."""
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


def summary(results: Sequence[Result]) -> str:
    """Return the means of several folders as one Markdown table: a row a method and protocol."""
    folders = list(dict.fromkeys(r.folder for r in results))
    lines = [
        "| model | scale | degradation | " + " | ".join(f"{f}, PSNR / SSIM" for f in folders) + " |",
        "|---|---|---|" + "---:|" * len(folders),
    ]
    protocols = list(dict.fromkeys(r.protocol for r in results))
    for protocol in protocols:
        rows = {r.folder: r for r in results if r.protocol == protocol}
        methods = list(dict.fromkeys(m for r in rows.values() for m in r.scores))
        for method in methods:
            cells = []
            for folder in folders:
                there = folder in rows and method in rows[folder].scores
                score = rows[folder].mean(method) if there else None
                cells.append(f"{score.psnr:.2f} / {score.ssim:.4f}" if score else "")
            what = str(protocol.degradation) + (", RGB" if protocol.channels == "rgb" else "")
            lines.append(f"| {method} | ×{protocol.scale} | {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(score: Score) -> str:
    multi = "–" if score.ms_ssim is None else f"{score.ms_ssim:.4f}"
    return f"{score.psnr:.2f} / {score.ssim:.4f} / {multi}"


class Sheet:
    """A contact sheet: a row an image, the same crop of the truth and of every method.

    The crop is where the last method and the first differ most, so that the sheet shows
    what a model changes, good or bad.
    """

    def __init__(self) -> None:
        self._rows: list[NDArray[np.uint8]] = []

    def add(self, name: str, images: Mapping[str, NDArray[np.float64]]) -> None:
        """Add an image: by title, (H, W) or (H, W, 3) code values, the truth first."""
        crop = min(CROP, *(min(p.shape[:2]) for p in images.values()))
        methods = [title for title in images if title != "truth"]
        a, b = images[methods[0]], images[methods[-1] if len(methods) > 1 else "truth"]
        y, x = _busiest(np.abs(a - b), crop)
        cells = []
        for title, image in images.items():
            label = f"{name}: {title}" if title == "truth" else title
            cells.append(_cell_image(image[y : y + crop, x : x + crop], label))
        self._rows.append(np.hstack(cells))

    def image(self) -> NDArray[np.uint8]:
        """Return the sheet: (H, W, 3) uint8, B, G, R.

        Raises
        ------
        ValueError
            If it is empty.
        """
        width = max(r.shape[1] for r in self._rows)
        rows = [
            np.pad(r, ((0, _GAP), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in self._rows
        ]
        return np.vstack(rows)


def _busiest(difference: NDArray[np.float64], size: int) -> tuple[int, int]:
    """Corner (y, x) of the window of `size` with the largest sum."""
    plane = difference if difference.ndim == 2 else difference.sum(axis=2)
    total = np.pad(plane.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x)


def _cell_image(crop: NDArray[np.float64], title: str) -> NDArray[np.uint8]:
    import cv2

    codes = crop.astype(np.uint8)
    bgr = np.repeat(codes[..., None], 3, axis=2) if codes.ndim == 2 else codes[..., ::-1]
    big = np.repeat(np.repeat(bgr, ZOOM, axis=0), ZOOM, axis=1)
    strip = np.full((_STRIP, big.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title[:30], (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.pad(np.vstack([strip, big]), ((0, 0), (0, _GAP), (0, 0)), constant_values=255)
