"""Image descriptions that programs read: made true for a picture `scale` times larger.

OME-XML, ImageJ's lines and tifffile's JSON say how large a picture is and how many there are. What
people wrote is left alone.
"""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction

# An OME-XML comment's numbers; the text around them stays as it is, byte for byte.
_OME_SIZE = re.compile(r"""(\bSize[XY]\s*=\s*)(["'])(\d{1,18})\2""")
_OME_PHYSICAL = re.compile(r"""(\bPhysicalSize[XY]\s*=\s*)(["'])([0-9.eE+-]{1,40})\2""")
# Regions of interest count in pixels.
_OME_ROI = re.compile(r"<(?:\w+:)?ROI\b.*?</(?:\w+:)?ROI>", re.DOTALL)
_OME_PLACE = re.compile(
    r"""(\s(?:X|Y|X1|X2|Y1|Y2|Width|Height|RadiusX|RadiusY|A02|A12)\s*=\s*)(["'])([0-9.eE+-]{1,40})\2"""
)
_OME_POINTS = re.compile(r"""(\sPoints\s*=\s*)(["'])([0-9.eE+,\s-]*)\2""")
_NUMBER = re.compile(r"[0-9.eE+-]+")
# The file's own name and identity, by which readers of OME look for planes in other files.
_OME_SELF = re.compile(r"""<(?:\w+:)?OME\b[^>]*?\bUUID\s*=\s*["']([^"']{1,80})["']""")
# ImageJ's counts of pictures.
_STACK = re.compile(r"^(?:images|channels|slices|frames|hyperstack)=.*\n?", re.MULTILINE)
_IMAGES = re.compile(r"^images=(\d{1,9})\s*$", re.MULTILINE)


def stack_size(text: str) -> int:
    """Return how many pictures ImageJ's description says the file holds, 1 if it says nothing."""
    found = _IMAGES.search(text) if text.startswith("ImageJ=") else None
    return int(found[1]) if found else 1


def scaled(text: str, scale: int, shape: tuple[int, int], *, pages: int, complete: bool) -> str | None:
    """Return a description of the larger picture; None if nothing true is left of it.

    Parameters
    ----------
    shape : (H, W) of the source
    pages : that are written
    complete : whether these are all pages of the source, in their layout
    """
    if text.startswith("{") and '"shape"' in text:
        return _tifffile(text, scale, shape, complete)
    if text.startswith("ImageJ="):
        return text if stack_size(text) == pages else _STACK.sub("", text)
    if "<OME" in text[:2000] or ":OME" in text[:2000]:
        # Of a part of the planes, axes and planes would be wrong.
        return _ome(text, scale) if complete else None
    return text


def _tifffile(text: str, scale: int, shape: tuple[int, int], complete: bool) -> str | None:
    """Return tifffile's description with the new shape, or without one that cannot be told."""
    try:
        items = json.loads(text)
        lengths = items.pop("shape")
        h, w = shape
        # (…, h, w) or (…, h, w, samples): the last place where the sizes stand.
        at = max(k for k in (len(lengths) - 2, len(lengths) - 3) if k >= 0 and lengths[k : k + 2] == [h, w])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not complete:
        items.pop("axes", None)
        return json.dumps(items) if items else None
    return json.dumps({"shape": [*lengths[:at], h * scale, w * scale, *lengths[at + 2 :]]} | items)


def _ome(text: str, scale: int) -> str:
    def larger(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{int(match[3]) * scale}{match[2]}"

    def smaller(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{_times(match[3], Fraction(1, scale))}{match[2]}"

    def moved(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{_times(match[3], Fraction(scale))}{match[2]}"

    def moved_points(match: re.Match[str]) -> str:
        points = _NUMBER.sub(lambda m: _times(m[0], Fraction(scale)), match[3])
        return f"{match[1]}{match[2]}{points}{match[2]}"

    def moved_region(match: re.Match[str]) -> str:
        return _OME_POINTS.sub(moved_points, _OME_PLACE.sub(moved, match[0]))

    text = _OME_PHYSICAL.sub(smaller, _OME_SIZE.sub(larger, text))
    if "ROI>" in text:
        text = _OME_ROI.sub(moved_region, text)
    own = _OME_SELF.search(text)
    if own:  # or a reader would take the planes of the source, which lies beside it
        text = re.sub(r"""\sFileName\s*=\s*["'][^"']*["'](?=\s*>\s*""" + re.escape(own[1]) + ")", "", text)
    return text


def _times(number: str, factor: Fraction) -> str:
    """Return a decimal number times a fraction, as it is if it is none."""
    try:
        value = float(Fraction(number) * factor) if len(number) < 30 else float(number) * float(factor)
    except (ValueError, OverflowError, ZeroDivisionError):
        return number
    if not math.isfinite(value):
        return number
    return (
        repr(int(value))
        if "." not in number and "e" not in number.lower() and value.is_integer()
        else repr(value)
    )
