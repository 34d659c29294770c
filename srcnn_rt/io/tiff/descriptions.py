"""Image descriptions that programs read: made true for an image `scale` times larger.

OME-XML, ImageJ's lines and tifffile's JSON say how large an image is and how many there are. What
people wrote is left alone.
"""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction

# An OME-XML comment's numbers; the text around them stays as it is, byte for byte.
_OME_SIZE = re.compile(r"""(\bSize[XY]\s{0,9}=\s{0,9})(["'])(\d{1,18})\2""")
_OME_PHYSICAL = re.compile(r"""(\bPhysicalSize[XY]\s{0,9}=\s{0,9})(["'])([0-9.eE+-]{1,40})\2""")
_OME_BITS = re.compile(r"""\bSignificantBits\s{0,9}=\s{0,9}["'](\d{1,3})["']""")
# Regions of interest count in pixels.
_OME_ROI = re.compile(r"<(/?)(?:\w{1,20}:)?ROI\b")
_OME_PLACE = re.compile(
    r"""(\s(?:X|Y|X1|X2|Y1|Y2|Width|Height|RadiusX|RadiusY|A02|A12)\s{0,9}=\s{0,9})(["'])([0-9.eE+-]{1,40})\2"""
)
_OME_POINTS = re.compile(r"""(\sPoints\s{0,9}=\s{0,9})(["'])([0-9.eE+,\s-]*)\2""")
_NUMBER = re.compile(r"[0-9.eE+-]+")
# The file's own name and identity, by which readers of OME look for planes in other files.
_OME_ROOT = re.compile(r"<(?:\w{1,20}:)?OME\b")
_OME_SELF = re.compile(r"""\bUUID\s{0,9}=\s{0,9}["']([^"']{1,80})["']""")
# ImageJ's counts of images.
_STACK = re.compile(r"^(?:images|channels|slices|frames|hyperstack)=.*\n?", re.MULTILINE)
_IMAGES = re.compile(r"^images=(\d{1,9})\s*$", re.MULTILINE)


def stack_size(text: str, samples: int) -> int:
    """Return how many images a description says are in the file behind its first directory.

    ImageJ and tifffile write stacks so that are too large for a directory each; 1 if it says nothing.

    Parameters
    ----------
    samples : of one image
    """
    if text.startswith("ImageJ="):
        found = _IMAGES.search(text)
        return int(found[1]) if found else 1
    if text.startswith("{") and '"truncated"' in text:
        try:
            items = json.loads(text)
            return int(math.prod(items["shape"]) // samples) if items["truncated"] else 1
        except (ValueError, KeyError, TypeError, ZeroDivisionError, OverflowError, RecursionError):
            return 1
    return 1


def significant_bits(text: str) -> int | None:
    """Return how many bits of a sample OME-XML says to be significant; None if it does not, or several."""
    if not _is_ome(text):
        return None
    found = {int(match[1]) for match in _OME_BITS.finditer(text)}
    return found.pop() if len(found) == 1 else None


def scaled(text: str, scale: int, shape: tuple[int, int], *, pages: int, complete: bool) -> str | None:
    """Return a description of the larger image; None if nothing true is left of it.

    Parameters
    ----------
    shape : (H, W) of the source
    pages : that are written
    complete : whether these are all pages of the source, in their layout
    """
    if text.startswith("{") and '"shape"' in text:
        return _tifffile(text, scale, shape, complete)
    if text.startswith("ImageJ="):
        return text if stack_size(text, 1) == pages else _STACK.sub("", text)
    if _is_ome(text):
        # Of a part of the planes, axes and planes would be wrong.
        return _ome(text, scale) if complete else None
    return text


def _is_ome(text: str) -> bool:
    return "<OME" in text[:2000] or ":OME" in text[:2000]


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

    text = _OME_PHYSICAL.sub(smaller, _OME_SIZE.sub(larger, text))
    parts, at, inside = [], 0, False
    for mark in _OME_ROI.finditer(text):  # from each beginning to the next end
        if inside == bool(mark[1]):
            part = text[at : mark.start()]
            parts.append(_OME_POINTS.sub(moved_points, _OME_PLACE.sub(moved, part)) if inside else part)
            at, inside = mark.start(), not inside
    text = "".join(parts) + text[at:]
    root = _OME_ROOT.search(text)
    own = _OME_SELF.search(text, root.start(), text.find(">", root.start()) + 1) if root else None
    if own:  # or a reader would take the planes of the source, which lies beside it
        name = (
            r"""\sFileName\s{0,9}=\s{0,9}["'][^"']{0,999}["'](?=\s{0,9}>\s{0,9}""" + re.escape(own[1]) + ")"
        )
        text = re.sub(name, "", text)
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
