"""Machine-readable image descriptions (OME-XML, ImageJ, tifffile's JSON), updated for an enlarged image.

They state the size and the number of the images. Free text is left alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal

# Attributes of an OME-XML comment. The text around them is kept byte for byte.
_OME_SIZE = re.compile(r"""(\bSize[XY]\s{0,9}=\s{0,9})(["'])(\d{1,18})\2""")
_OME_PHYSICAL = re.compile(r"""(\bPhysicalSize[XY]\s{0,9}=\s{0,9})(["'])([0-9.eE+-]{1,40})\2""")
_OME_BITS = re.compile(r"""\bSignificantBits\s{0,9}=\s{0,9}["'](\d{1,3})["']""")
# Coordinates of regions of interest are in pixels.
_OME_ROI = re.compile(r"<(/?)(?:\w{1,20}:)?ROI\b")
_OME_COORDINATE = re.compile(
    r"""(\s(?:X|Y|X1|X2|Y1|Y2|Width|Height|RadiusX|RadiusY|A02|A12)\s{0,9}=\s{0,9})(["'])([0-9.eE+-]{1,40})\2"""
)
_OME_POINTS = re.compile(r"""(\sPoints\s{0,9}=\s{0,9})(["'])([0-9.eE+,\s-]*)\2""")
_NUMBER = re.compile(r"[0-9.eE+-]+")
# Identifier and file name of the file itself. OME readers look for planes in other files by them.
_OME_ROOT = re.compile(r"<(?:\w{1,20}:)?OME\b")
_OME_UUID = re.compile(r"""\bUUID\s{0,9}=\s{0,9}["']([^"']{1,80})["']""")
_IMAGEJ_COUNTS = re.compile(r"^(?:images|channels|slices|frames|hyperstack)=.*\n?", re.MULTILINE)
_IMAGEJ_IMAGES = re.compile(r"^images=(\d{1,9})\s*$", re.MULTILINE)


def stack_size(text: str, samples: int) -> int:
    """Return how many images a description claims behind the first directory, 1 if it claims nothing.

    ImageJ and tifffile write stacks of more than 4 GB with a single directory.

    Parameters
    ----------
    text : str
        Image description.
    samples : int
        Number of samples per image.
    """
    if text.startswith("ImageJ="):
        found = _IMAGEJ_IMAGES.search(text)
        return int(found[1]) if found else 1
    if text.startswith("{") and '"truncated"' in text:
        try:
            items = json.loads(text)
            return int(math.prod(items["shape"]) // samples) if items["truncated"] else 1
        except (ValueError, KeyError, TypeError, ZeroDivisionError, OverflowError, RecursionError):
            return 1
    return 1


def significant_bits(text: str) -> int | None:
    """Return the significant bits per sample that OME-XML declares; None if missing or ambiguous."""
    if not _is_ome(text):
        return None
    found = {int(match[1]) for match in _OME_BITS.finditer(text)}
    return found.pop() if len(found) == 1 else None


def scaled(text: str, scale: int, shape: tuple[int, int], *, pages: int, complete: bool) -> str | None:
    """Return the description of the enlarged image; None if nothing in it remains valid.

    Parameters
    ----------
    text : str
        Description of the source.
    scale : int
        Scale factor.
    shape : tuple of (int, int)
        Height and width of the source.
    pages : int
        Number of pages of the result.
    complete : bool
        Whether the result has all pages of the source, with the same axes.
    """
    if text.startswith("{") and '"shape"' in text:
        return _scaled_tifffile(text, scale, shape, complete)
    if text.startswith("ImageJ="):
        return text if stack_size(text, 1) == pages else _IMAGEJ_COUNTS.sub("", text)
    if _is_ome(text):
        # For a subset of the planes, the axes and planes in OME-XML would be wrong.
        return _scaled_ome(text, scale) if complete else None
    return text


def _is_ome(text: str) -> bool:
    return "<OME" in text[:2000] or ":OME" in text[:2000]


def _scaled_tifffile(text: str, scale: int, shape: tuple[int, int], complete: bool) -> str | None:
    """Return tifffile's description with the new shape, or without a shape that is not known."""
    try:
        items = json.loads(text)
        lengths = items.pop("shape")
        h, w = shape
        # (…, h, w) or (…, h, w, samples): the last matching position counts.
        at = max(k for k in (len(lengths) - 2, len(lengths) - 3) if k >= 0 and lengths[k : k + 2] == [h, w])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not complete:
        items.pop("axes", None)
        return json.dumps(items) if items else None
    return json.dumps({"shape": [*lengths[:at], h * scale, w * scale, *lengths[at + 2 :]]} | items)


def _scaled_ome(text: str, scale: int) -> str:
    text = _OME_SIZE.sub(_with_value(lambda v: str(int(v) * scale)), text)
    text = _OME_PHYSICAL.sub(_with_value(lambda v: _times(v, 1, scale)), text)
    move = _with_value(lambda v: _NUMBER.sub(lambda n: _times(n[0], scale), v))
    parts, at, inside = [], 0, False
    for tag in _OME_ROI.finditer(text):  # from each start tag to the next end tag
        if inside == bool(tag[1]):
            part = text[at : tag.start()]
            parts.append(_OME_POINTS.sub(move, _OME_COORDINATE.sub(move, part)) if inside else part)
            at, inside = tag.start(), not inside
    text = "".join(parts) + text[at:]
    root = _OME_ROOT.search(text)
    own = _OME_UUID.search(text, root.start(), text.find(">", root.start()) + 1) if root else None
    if own:  # otherwise readers would take the planes from the source file in the same folder
        uuid = re.escape(own[1])
        text = re.sub(
            rf"""\sFileName\s{{0,9}}=\s{{0,9}}["'][^"']{{0,999}}["'](?=\s{{0,9}}>\s{{0,9}}{uuid})""", "", text
        )
    return text


def _with_value(change: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    """Return a replacement function that changes the quoted value of an attribute."""
    return lambda match: f"{match[1]}{match[2]}{change(match[3])}{match[2]}"


def _times(number: str, factor: int, divisor: int = 1) -> str:
    """Return a decimal number times a fraction; return it unchanged if it is invalid or too large."""
    try:
        value = float(Decimal(number) * factor / divisor)
    except ArithmeticError:
        return number
    if not math.isfinite(value):
        return number
    whole = "." not in number and "e" not in number.lower() and value.is_integer()
    return repr(int(value)) if whole else repr(value)
