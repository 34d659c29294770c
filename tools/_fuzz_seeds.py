"""Seeds of fuzzing: small generated files of every readable kind."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from srcnn_rt.image.info import SAMPLE_TYPES
from srcnn_rt.io.registry import IMAGE_SUFFIXES

ROOT = Path(__file__).parent.parent
H, W = 20, 24
# Kinds and their suffixes.
KINDS = {
    "tiff": ".tif", "png": ".png", "jpeg": ".jpg", "webp": ".webp", "bmp": ".bmp", "avif": ".avif",
    "jxl": ".jxl", "zarr": ".zarr", "model": ".onnx",
}  # fmt: skip
Seeds = dict[str, bytes]


def kinds() -> list[str]:
    """Return the kinds that this version of the package can read."""
    return [k for k, suffix in KINDS.items() if suffix == ".onnx" or suffix in IMAGE_SUFFIXES]


def seeds(kind: str, cache: Path) -> Seeds:
    """Return the seeds of a kind by name.

    Parameters
    ----------
    kind : str
        A key of `KINDS`.
    cache : Path
        Folder for models exported by torch, because exporting takes a minute.
    """
    make: dict[str, Callable[[], Seeds]] = {
        "tiff": _tiff, "png": _png, "jpeg": _jpeg, "webp": _webp, "bmp": _bmp, "avif": _avif, "jxl": _jxl,
        "zarr": _zarr, "model": lambda: _models(cache),
    }  # fmt: skip
    return make[kind]()


def make_image(channels: int, dtype: Any = np.uint8, h: int = H, w: int = W) -> np.ndarray:
    """Return a synthetic (h, w, C) image: gradients and a disc."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    planes = [(np.sin(x / (3 + c)) * np.cos(y / 4) + 1) / 2 for c in range(channels)]
    disc = (y - h / 2) ** 2 + (x - w / 2) ** 2 < (h / 4) ** 2
    values = np.where(disc[..., None], 0.9, np.stack(planes, axis=-1))
    top = 1.0 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    return (values * top).astype(dtype)


def _tiff() -> Seeds:
    import tifffile

    found: Seeds = {}

    def add(name: str, array: np.ndarray, pages: int = 1, **options: Any) -> None:
        file = io.BytesIO()
        order = {k: options.pop(k) for k in ("bigtiff", "byteorder") if k in options}
        with tifffile.TiffWriter(file, **order) as writer:
            for _ in range(pages):
                writer.write(array, metadata=None, software="", **options)
        found[name] = file.getvalue()

    gray, rgb, rgba = make_image(1)[..., 0], make_image(3), make_image(4)
    add("striped", rgb, photometric="rgb", rowsperstrip=4)
    add("one strip", gray, photometric="minisblack")
    add("white is zero", gray, photometric="miniswhite")
    add("tiled", make_image(3, h=40, w=36), photometric="rgb", tile=(16, 16))
    add("planar", np.moveaxis(rgb, 2, 0).copy(), photometric="rgb", planarconfig="separate", rowsperstrip=8)
    add(
        "planar tiled",
        np.moveaxis(rgb, 2, 0).copy(),
        photometric="rgb",
        planarconfig="separate",
        tile=(16, 16),
    )
    add("big-endian", make_image(3, np.uint16), photometric="rgb", byteorder=">", rowsperstrip=8)
    add("bigtiff", rgb, photometric="rgb", bigtiff=True, rowsperstrip=8)
    add("bigtiff big-endian", gray, bigtiff=True, byteorder=">", tile=(16, 16))
    add("16-bit", make_image(1, np.uint16)[..., 0])
    add("float", make_image(1, np.float32)[..., 0], rowsperstrip=5)
    add("alpha", rgba, photometric="rgb", extrasamples=["unassalpha"])
    add("premultiplied", rgba, photometric="rgb", extrasamples=["assocalpha"])
    add(
        "gray alpha",
        make_image(2),
        photometric="minisblack",
        extrasamples=["unassalpha"],
        planarconfig="contig",
    )
    add("five bands", make_image(5), photometric="minisblack", planarconfig="contig")
    table = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85
    add("palette", gray, photometric="palette", colormap=table)
    add("one bit", gray > 99, photometric="minisblack")
    add("pages", gray, pages=3)
    add(
        "resolution",
        rgb,
        photometric="rgb",
        resolution=(300, 300),
        resolutionunit="inch",
        description="a text",
    )
    for name in SAMPLE_TYPES:
        add(name, make_image(1, name)[..., 0], rowsperstrip=8)
        add(
            f"{name} predictor", make_image(3, name), photometric="rgb", compression="deflate", predictor=True
        )
    add("12 bits declared", make_image(1, np.uint16)[..., 0] >> 4, extratags=[(281, 3, 1, 4095, True)])
    add("int64", make_image(1, np.int64)[..., 0])
    for kind in ("deflate", "lzw", "zstd", "packbits", "lzma", "webp", "lerc"):
        for form in ({"rowsperstrip": 8}, {"tile": (16, 16)}):
            try:
                add(f"{kind} {next(iter(form))}", rgb, photometric="rgb", compression=kind, **form)
            except (ValueError, KeyError, RuntimeError):  # imagecodecs without it
                continue
    for kind in ("deflate", "lzw"):
        add(
            f"{kind} predictor", make_image(3, np.uint16), photometric="rgb", compression=kind, predictor=True
        )
    add("float predictor", make_image(1, np.float32)[..., 0], compression="deflate", predictor=True)
    add("jpeg", make_image(3, h=32, w=32), photometric="rgb", compression="jpeg", tile=(16, 16))
    add("jpeg ycbcr", make_image(3, h=32, w=32), photometric="ycbcr", compression="jpeg", tile=(16, 16))
    return found | _geotiff()


def _geotiff() -> Seeds:
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    found: Seeds = {}

    def add(name: str, array: np.ndarray, *, mask: bool = False, geo: bool = True, **options: Any) -> None:
        profile = {
            "driver": "GTiff", "height": array.shape[0], "width": array.shape[1], "count": array.shape[2],
            "dtype": array.dtype.name, **options,
        }  # fmt: skip
        if geo:
            profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
        with warnings.catch_warnings(), MemoryFile() as memory, rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(**profile) as file:
                file.write(np.moveaxis(array, 2, 0))
                if mask:
                    file.write_mask(make_image(1)[..., 0] > 60)
                if geo:
                    file.update_tags(AREA="here", NOTE="a text")
                    file.set_band_description(1, "first")
            memory.seek(0)
            found[name] = memory.read()

    add("geotiff", make_image(3), compress="deflate")
    add("geotiff nodata", make_image(2, np.uint16), nodata=7, tiled=True, blockxsize=16, blockysize=16)
    add("mask", make_image(3), mask=True, compress="lzw")
    add("12 bits", make_image(1, np.uint16) >> 4, nbits=12)
    add("1 bit", make_image(1) >> 7, nbits=1, geo=False)
    add("sparse", make_image(1) * 0, sparse_ok=True, tiled=True, blockxsize=16, blockysize=16)
    add("float32 predictor", make_image(2, np.float32), compress="zstd", predictor=3)
    add("cmyk", make_image(4), photometric="CMYK", geo=False)
    add("lab", make_image(3), photometric="CIELAB", geo=False)
    return found


def _saved(image: Any, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _exif() -> bytes:
    from PIL import Image

    tags = Image.Exif()
    tags[0x0112], tags[0x010E], tags[0x011A], tags[0x0128] = 6, "a text", 300.0, 2
    return tags.tobytes()


def _icc() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _png() -> Seeds:
    import cv2
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    gray, rgb, rgba = (Image.fromarray(make_image(c).squeeze()) for c in (1, 3, 4))
    text = PngInfo()
    text.add_text("Title", "a title")
    text.add_text("Comment", "a comment " * 5, zip=True)
    text.add_itxt("Author", "\u00e4", "de", "Autor")
    found = {
        "gray": _saved(gray, "PNG"),
        "gray alpha": _saved(gray.convert("LA"), "PNG"),
        "rgb": _saved(rgb, "PNG"),
        "rgba": _saved(rgba, "PNG"),
        "palette": _saved(rgb.convert("P"), "PNG"),
        "palette, transparent": _saved(
            rgb.convert("P", colors=16), "PNG", transparency=bytes(range(0, 256, 16))
        ),
        "one bit": _saved(gray.convert("1"), "PNG"),
        "two bits": _saved(gray.quantize(4), "PNG", bits=2),
        "transparent colour": _saved(rgb, "PNG", transparency=(9, 9, 9)),
        "texts": _saved(rgb, "PNG", pnginfo=text, dpi=(300, 300)),
        "exif": _saved(rgb, "PNG", exif=_exif()),
        "icc": _saved(rgb, "PNG", icc_profile=_icc()),
        "animated": _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
        "16-bit": bytes(cv2.imencode(".png", make_image(1, np.uint16))[1]),
        "16-bit rgba": bytes(cv2.imencode(".png", make_image(4, np.uint16))[1]),
    }
    found["interlaced"] = _interlaced()
    bits = found["16-bit"]
    found["significant bits"] = bits[:33] + _chunk(b"sBIT", b"\x0c") + bits[33:]
    gamma = [(b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0"), (b"cHRM", struct.pack(">8I", *range(8)))]
    found["gamma"] = found["rgb"][:33] + b"".join(_chunk(*c) for c in gamma) + found["rgb"][33:]
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _interlaced() -> bytes:
    """Return an Adam7-interlaced PNG, which the available libraries cannot write."""
    gray = make_image(1)[..., 0]
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = [b"\0" + r.tobytes() for y, x, dy, dx in passes for r in gray[y::dy, x::dx]]
    head = struct.pack(">IIBBBBB", W, H, 8, 0, 0, 0, 1)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*p) for p in parts)


def _jpeg() -> Seeds:
    from PIL import Image

    rgb = Image.fromarray(make_image(3))
    return {
        "baseline": _saved(rgb, "JPEG"),
        "4:4:4": _saved(rgb, "JPEG", subsampling=0, quality=95),
        "4:2:0": _saved(rgb, "JPEG", subsampling=2),
        "progressive": _saved(rgb, "JPEG", progressive=True),
        "gray": _saved(rgb.convert("L"), "JPEG"),
        "cmyk": _saved(rgb.convert("CMYK"), "JPEG"),
        "exif": _saved(rgb, "JPEG", exif=_exif(), dpi=(300, 300)),
        "icc": _saved(rgb, "JPEG", icc_profile=_icc()),
        "restart": _saved(rgb, "JPEG", restart_marker_blocks=2),
        "comment": _saved(rgb, "JPEG", comment=b"a comment"),
    }


def _webp() -> Seeds:
    from PIL import Image

    rgb, rgba = Image.fromarray(make_image(3)), Image.fromarray(make_image(4))
    return {
        "lossy": _saved(rgb, "WEBP"),
        "lossless": _saved(rgb, "WEBP", lossless=True),
        "lossy alpha": _saved(rgba, "WEBP"),
        "lossless alpha": _saved(rgba, "WEBP", lossless=True),
        "exif": _saved(rgb, "WEBP", exif=_exif(), icc_profile=_icc()),
        "animated": _saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
    }


def _bmp() -> Seeds:
    from PIL import Image

    rgb = Image.fromarray(make_image(3))
    found = {
        "24 bits": _saved(rgb, "BMP"),
        "32 bits": _saved(Image.fromarray(make_image(4)), "BMP"),
        "palette": _saved(rgb.convert("P"), "BMP"),
        "gray": _saved(rgb.convert("L"), "BMP"),
        "one bit": _saved(rgb.convert("1"), "BMP"),
    }
    # Run-length coded by hand: 8 x 4 pixels of 8 bits, rows of one run each.
    rle = b"".join(bytes([8, 3 + y, 0, 0]) for y in range(4)) + b"\0\1"
    table = b"".join(bytes([n, n, n, 0]) for n in range(256))
    size = 54 + len(table) + len(rle)
    head = b"BM" + struct.pack("<IHHI", size, 0, 0, 54 + len(table))
    found["rle"] = (
        head + struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(rle), 2835, 2835, 256, 0) + table + rle
    )
    return found


def _avif() -> Seeds:
    import imagecodecs

    forms = {"rgb": make_image(3), "rgba": make_image(4), "gray": make_image(1)[..., 0]}
    found = {k: bytes(imagecodecs.avif_encode(a, speed=10)) for k, a in forms.items()}
    found["10 bits"] = bytes(
        imagecodecs.avif_encode(make_image(3, np.uint16) >> 6, bitspersample=10, speed=10)
    )
    return found


def _jxl() -> Seeds:
    import imagecodecs

    forms = {
        "rgb": make_image(3),
        "rgba": make_image(4),
        "gray": make_image(1)[..., 0],
        "16-bit": make_image(3, np.uint16),
    }
    found = {k: bytes(imagecodecs.jpegxl_encode(a, lossless=True)) for k, a in forms.items()}
    return found | {"lossy": bytes(imagecodecs.jpegxl_encode(make_image(3), lossless=False))}


def _zarr() -> Seeds:
    """Return Zarr folders, each packed into one tar file."""
    import zarr

    from tests.helpers.zarrs import ome_zarr

    found: Seeds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, array, axes, version in (
            ("ome 0.5", make_image(3), "yxc", "0.5"),
            ("ome 0.4", np.moveaxis(make_image(2, np.uint16), 2, 0), "cyx", "0.4"),
            ("stack", np.stack([make_image(1)[..., 0]] * 3), "zyx", "0.5"),
        ):
            found[name] = pack(ome_zarr(Path(folder) / f"{name}.zarr", array, axes, version))
        for version in (2, 3):
            path = Path(folder) / f"plain{version}.zarr"
            zarr.create_array(path, data=make_image(1)[..., 0], chunks=(16, 16), zarr_format=version)
            found[f"plain, format {version}"] = pack(path)
            for name in ("int16", "float16", "float64"):
                path = Path(folder) / f"{name}-{version}.zarr"
                data = make_image(1, name)[..., 0]
                zarr.create_array(path, data=data, chunks=(16, 16), zarr_format=version)
                found[f"{name}, format {version}"] = pack(path)
    return found


def pack(folder: Path) -> bytes:
    """Return the files of a folder as one tar file; the bytes are always the same."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return packed({str(p.relative_to(folder)): p.read_bytes() for p in files})


def members(data: bytes) -> Seeds:
    """Return the files in a tar file."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def packed(files: Seeds) -> bytes:
    """Return files as one tar file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, body in files.items():
            tar.addfile(*_member(name, body))
    return file.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Write the files of a tar file into a folder, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, body in members(data).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def _member(name: str, body: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    return info, io.BytesIO(body)


def _models(cache: Path) -> Seeds:
    from onnx import helper

    from srcnn_rt.models import spec
    from srcnn_rt.models.bundled import bundled
    from tests.helpers import models

    found = {name: spec.read(name)[0] for name in ("bicubic-x2", "bicubic-x3")}
    found["bundled"] = bundled()["srcnn-915-x2"].read_bytes()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        models.srcnn_like(path, 2, models.integer_layers(rng, (9, 1, 5)), models.enlarging_kernel(rng, 2), 2)
        found["integer"] = path.read_bytes()
        node = helper.make_node
        nodes = [
            node("Resize", ["lr", "", "scales"], ["up"], "up", mode="cubic"),
            node("Conv", ["up", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            node("BatchNormalization", ["c", "g", "z", "z", "g"], ["n"], "norm"),
            node("Clip", ["n", "low", "high"], ["hr"], "clip"),
        ]
        weights = {
            "scales": [1, 1, 2, 2], "w": np.ones((1, 1, 3, 3)) / 9, "b": [0], "g": [1], "z": [0], "low": 0,
            "high": 1,
        }  # fmt: skip
        models.save(path, nodes, {k: np.array(v, np.float32) for k, v in weights.items()})
        found["folds"] = path.read_bytes()
        body = helper.make_graph(
            [node("Relu", ["lr"], ["b"])], "body", [], [models.value("b", ["n", 1, "h", "w"])]
        )
        nodes = [node("If", ["yes"], ["hr"], "choice", then_branch=body, else_branch=body)]
        models.save(path, nodes, {"yes": np.array(True)})
        found["if"] = path.read_bytes()
        nodes = [
            node("Shape", ["lr"], ["shape"], "shape"),
            node("Slice", ["shape", "two", "four"], ["size"], "size"),
            node("Mul", ["size", "twos"], ["twice"], "twice"),
            node("Slice", ["shape", "zero", "two"], ["front"], "front"),
            node("Concat", ["front", "twice"], ["sizes"], "sizes", axis=0),
            node("Resize", ["lr", "", "", "sizes"], ["hr"], "up", mode="linear"),
        ]
        values = {"zero": [0], "two": [2], "four": [4], "twos": [2, 2]}
        models.save(path, nodes, {k: np.array(v, np.int64) for k, v in values.items()})
        found["sizes"] = path.read_bytes()
    return found | _exported(cache)


EXPORT = """
import logging, sys, warnings
warnings.simplefilter("ignore")
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
from tests.helpers import architectures
both = ("EDSR", "U-Net, stride 4")
for name, exporter in [(n, "torchscript") for n in architectures.FAMILIES] + [(n, "dynamo") for n in both]:
    architectures.export(name, f"{sys.argv[1]}/{name.replace(' ', '-')}-{exporter}.onnx", exporter)
"""


def _exported(cache: Path) -> Seeds:
    """Export the architectures of the tests by torch, once, in a subprocess; none without torch."""
    folder = cache / "exported"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-c", EXPORT, str(folder)], cwd=ROOT, capture_output=True, check=False
        )
        (folder / "done").touch()
    return {p.stem: p.read_bytes() for p in sorted(folder.glob("*.onnx"))}
