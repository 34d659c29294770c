"""Images and metadata written and read without the package, by Pillow, imagecodecs and by hand."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from srcnn_rt.io.codecs import whole_file as coded
from srcnn_rt.io.in_memory import ArraySource
from srcnn_rt.tiling.geometry import Span

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKER = b"maker\0" + bytes(range(256)) * 2
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>'
    b'<rdf:Description tiff:Orientation="1" tiff:XResolution="300/1" exif:PixelXDimension="60">'
    b"<tiff:YResolution>150</tiff:YResolution><dc:creator>somebody</dc:creator>"
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
EVERY = [".png", ".jpg", ".webp", ".bmp", ".avif", ".jxl"]
WITH_EXIF = [".png", ".jpg", ".webp", ".avif", ".jxl"]


def exif_block(orientation: int = 1) -> bytes:
    """Return an EXIF block like those of cameras, by Pillow, without its prefix."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a drawing"
    exif[0x013B] = "somebody"
    exif[0x0132] = "2024:05:06 07:08:09"
    exif[0x011A], exif[0x011B], exif[0x0128] = 300.0, 150.0, 2
    inner = exif.get_ifd(0x8769)
    inner[0xA002], inner[0xA003] = 60, 45
    inner[0x927C] = MAKER
    return exif.tobytes()[6:]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jxl_file(
    array: np.ndarray, exif: bytes | None = None, xmp: bytes | None = None, **options: object
) -> bytes:
    """Return a JPEG XL file: boxes around a codestream of imagecodecs."""
    flat = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    stream = imagecodecs.jpegxl_encode(flat, **{"lossless": True, "usecontainer": False, **options})
    parts = [box(b"JXL ", b"\r\n\x87\n"), box(b"ftyp", b"jxl \0\0\0\0jxl ")]
    parts += [box(b"Exif", bytes(4) + exif)] if exif else []
    parts += [box(b"xml ", xmp)] if xmp else []
    return b"".join([*parts, stream[32:] if stream[:4] == b"\0\0\0\x0c" else box(b"jxlc", stream)])


def make(
    path: Path,
    array: np.ndarray,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    texts: dict[str, str] | None = None,
) -> Path:
    """Write a uint8 image with metadata, by Pillow (and by hand for JPEG XL)."""
    suffix = path.suffix
    if suffix == ".jxl":
        path.write_bytes(jxl_file(array, exif, xmp))
        return path
    options: dict[str, object] = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    options |= {"lossless": True} if suffix == ".webp" else {}
    options |= {"quality": 100, "subsampling": "4:4:4"} if suffix == ".avif" else {}
    items = {"icc_profile": icc, "exif": exif and b"Exif\0\0" + exif, "xmp": xmp, "dpi": dpi}
    if suffix == ".png":
        items["pnginfo"] = info = PngImagePlugin.PngInfo()
        if items.pop("xmp"):
            info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        for key, text in (texts or {}).items():
            info.add_text(key, text, zip=len(text) > 100)
    elif suffix == ".jpg" and texts:
        options["comment"] = texts["Comment"]
    Image.fromarray(array).save(path, **options, **{k: v for k, v in items.items() if v is not None})
    return path


def read(path: Path, **options: object) -> ArraySource:
    with path.open("rb") as file:
        format_ = coded.recognise(file.read(64))
    assert format_ is not None
    return coded.read_coded(path, format_, **options)


def pixels(source: ArraySource) -> np.ndarray:
    h, w = source.info.shape
    return source.read(Span(0, h), Span(0, w))


def enlarge(path: Path, target: Path, scale: int = 2, quality: int | None = None) -> np.ndarray:
    """Convert a file as `upscale` does, but repeat the pixels; return the encoded samples."""
    source = read(path)
    format_, info = coded.FORMATS[target.suffix], source.info.scaled(scale)
    coded.check_coded(target, format_, info, quality)
    array = np.repeat(np.repeat(pixels(source), scale, 0), scale, 1)
    target.write_bytes(coded.encode(array, format_, info, scale, quality, target))
    return array


def boxes(data: bytes) -> dict[bytes, bytes]:
    """Return the content of the top-level boxes of a file."""
    found, at = {}, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        found[data[at + 4 : at + 8]] = data[at + 8 : at + size]
        at += size
    return found


def seen(path: Path) -> dict[str, object]:
    """Return metadata by another reader: Pillow, and `boxes` for JPEG XL."""
    if path.suffix == ".jxl":
        parts = boxes(path.read_bytes())
        return {"exif": parts.get(b"Exif", b"")[4:] or None, "xmp": parts.get(b"xml ")}
    with Image.open(path) as image:
        info = dict(image.info)
        if image.format == "PNG":
            image.load()
            info |= image.text
    exif = info.get("exif")
    info["exif"] = exif.removeprefix(b"Exif\0\0") if exif else None
    info["xmp"] = info.get("xmp") or (info.get("XML:com.adobe.xmp") or "").encode() or None
    return info


def tags(exif: bytes) -> Image.Exif:
    parsed = Image.Exif()
    parsed.load(b"Exif\0\0" + exif)
    return parsed


def decoded(path: Path) -> np.ndarray:
    """Return samples by another reader: Pillow, and imagecodecs for AVIF and JPEG XL."""
    if path.suffix == ".jxl":
        return np.asarray(imagecodecs.jpegxl_decode(path.read_bytes()))
    if path.suffix == ".avif":
        return np.asarray(imagecodecs.avif_decode(path.read_bytes()))
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return np.asarray(image)
