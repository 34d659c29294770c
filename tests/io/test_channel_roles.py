"""Roles of channels: alpha with bands, bands that are called alpha, category numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from click.testing import CliRunner
from rasterio.crs import CRS
from rasterio.enums import ColorInterp as Role
from rasterio.transform import Affine

from srcnn_rt import ArgumentError, Engine, ImageError, OutputError
from srcnn_rt.cli import main
from srcnn_rt.image.info import Layout, Reading
from srcnn_rt.models import image_graph, prepare, spec
from srcnn_rt.models.margins import check_layout, margin_for
from tests.conftest import TEST_MODEL, drawing
from tests.helpers import reference
from tests.helpers.image_graphs import Graph, assert_same, colour
from tests.helpers.models import network_of
from tests.helpers.tiffs import by_tifffile, image_of, write

PLACE = {"crs": CRS.from_epsg(32633), "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
BGRA = (Role.blue, Role.green, Role.red, Role.alpha)
RGBA = (Role.red, Role.green, Role.blue, Role.alpha)
RGBNA = (Role.red, Role.green, Role.blue, Role.undefined, Role.alpha)
SEVEN = (Role.gray, *[Role.undefined] * 6, Role.alpha)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(TEST_MODEL, provider="cpu", tile=16, threads=2)


def cut_out(channels: int, dtype: type, h: int = 45, w: int = 60, seed: int = 0) -> np.ndarray:
    """Return an alpha channel with a hole and a soft edge, opaque elsewhere."""
    image = image_of(channels, dtype, h, w, seed)
    white = 1 if dtype is np.float32 else np.iinfo(dtype).max
    image[..., -1] = white
    image[h // 4 : h // 2, w // 4 : w // 2, -1] = 0
    image[h // 2, w // 4 : w // 2, -1] = image.dtype.type(white / 3)
    return image


def roles_in(path: Path, roles: tuple[Role, ...]) -> Path:
    with rasterio.open(path, "r+") as file:
        file.colorinterp = roles
    return path


def in_file(path: Path, image: np.ndarray, roles: tuple[Role, ...], **options: object) -> Path:
    kind = "RGB" if roles[:3] == (Role.red, Role.green, Role.blue) else "MINISBLACK"
    return roles_in(write(path, image, photometric=kind, **options), roles)


# Alpha beside bands


@pytest.mark.parametrize("bands", [2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alpha_beside_bands_equals_the_oracle(engine: Engine, bands: int, dtype: type) -> None:
    """Every band equals a gray image with this alpha, and alpha is upscaled bicubically on its own."""
    h, w = (8, 10) if bands > 3 else (13, 11)
    image = cut_out(bands + 1, dtype, h, w)
    white = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    network, values = network_of(TEST_MODEL), image / white
    got = engine.upscale(image, bands=True, alpha=True)
    assert got.dtype == image.dtype
    alpha = reference.bicubic(values[..., -1], 2)
    step = 1e-5 if dtype is np.float32 else 1 / white
    expected_alpha = alpha if dtype is np.float32 else reference.quantise(alpha, dtype) / white
    assert np.abs(got[..., -1] / white - expected_alpha).max() <= step * 1.01
    for k in range(bands):
        two = np.stack([values[..., k], values[..., -1]], axis=-1)
        expected = reference.upscale_with_alpha(two, network, engine.margin)[..., 0]
        seen = np.clip(alpha, 0, 1)  # what is divided by next to nothing counts in that measure
        if dtype is not np.float32:
            expected = np.where(alpha >= 0.5 / white, np.clip(expected, 0, 1), 0)
        assert np.abs((got[..., k] / white - expected) * seen).max() <= step * 1.2


@pytest.mark.parametrize("tile", [8, 13, 512])
def test_bands_beside_alpha_are_each_on_their_own(engine: Engine, tile: int) -> None:
    image = cut_out(5, np.uint16)
    with Engine(TEST_MODEL, provider="cpu", tile=tile) as other:
        got = other.upscale(image, bands=True, alpha=True)
    for k in range(4):
        alone = engine.upscale(image[..., [k, 4]])
        assert np.abs(got[..., [k, 4]].astype(int) - alone).max() <= 1


def test_a_hole_stays_a_hole_and_what_lies_under_it_is_nowhere(engine: Engine) -> None:
    image = cut_out(5, np.uint16)
    hole = image[..., -1] == 0
    got = engine.upscale(image, bands=True, alpha=True)
    inside = np.zeros_like(hole)
    inside[13:20, 17:28] = True  # two pixels from its edge, as far as bicubic sees
    assert hole[inside].all()
    assert (got[inside.repeat(2, 0).repeat(2, 1)] == 0).all()
    far = np.ones_like(hole)
    far[9:26, 13:33] = False
    assert (got[..., -1][far.repeat(2, 0).repeat(2, 1)] == 65535).all()
    image[hole, :-1] = np.random.default_rng(0).integers(0, 65536, (int(hole.sum()), 4))
    assert np.array_equal(engine.upscale(image, bands=True, alpha=True), got)


def test_opaque_alpha_changes_nothing(engine: Engine) -> None:
    image = image_of(5, np.uint8)
    image[..., -1] = 255
    got = engine.upscale(image, bands=True, alpha=True)
    assert (got[..., -1] == 255).all()
    assert np.abs(got[..., :4].astype(int) - engine.upscale(image[..., :4], bands=True)).max() <= 1


@pytest.mark.parametrize(("roles", "kind"), [(BGRA, np.uint16), (RGBNA, np.uint8), (SEVEN, np.float32)])
@pytest.mark.parametrize("how", ["tiff", "cog", "planar", "premultiplied"])
def test_alpha_beside_bands_in_a_file(
    engine: Engine, tmp_path: Path, roles: tuple[Role, ...], kind: type, how: str
) -> None:
    image = cut_out(len(roles), kind)
    options = {"interleave": "band"} if how == "planar" else {}
    source = in_file(tmp_path / "a.tif", image, roles, **PLACE, **options)
    if how == "premultiplied":
        with tifffile.TiffFile(source, mode="r+") as file:
            tag = file.pages[0].tags[338]
            tag.overwrite((*tag.value[:-1], 1))
        image = reference_straight(image)
    engine.upscale_file(source, tmp_path / "b.tif", cog=how == "cog")
    assert np.array_equal(by_tifffile(tmp_path / "b.tif"), engine.upscale(image, bands=True, alpha=True))
    with rasterio.open(tmp_path / "b.tif") as file:
        assert file.colorinterp == roles
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].extrasamples[-1] == tifffile.EXTRASAMPLE.UNASSALPHA
        assert set(file.pages[0].extrasamples[:-1]) <= {tifffile.EXTRASAMPLE.UNSPECIFIED}
    report = engine.upscale_file(source, tmp_path / "c.tif")
    assert report.layout == f"{len(roles) - 1} bands + alpha"
    assert report.warnings == ()


def reference_straight(image: np.ndarray) -> np.ndarray:
    """Divide by alpha, clipped and rounded, by the definition of associated alpha."""
    white = 1.0 if image.dtype.kind == "f" else float(np.iinfo(image.dtype).max)
    alpha = image[..., -1:].astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        color = np.where(alpha > 0, image[..., :-1] * np.float32(white) / alpha, 0)
    if image.dtype.kind != "f":
        color = np.rint(np.minimum(color, white))
    return np.concatenate([color.astype(image.dtype), image[..., -1:]], axis=2)


def test_alpha_of_sliced_arrays_and_streams(engine: Engine) -> None:
    image = cut_out(4, np.uint8)
    expected = engine.upscale(image, bands=True, alpha=True)
    target = np.zeros((4, 90, 120), np.uint8)
    engine.upscale_into(image.transpose(2, 0, 1), target, layout="CHW", bands=True, alpha=True)
    assert np.array_equal(target.transpose(1, 2, 0), expected)
    out = np.zeros_like(expected)
    for window, part in engine.stream(image, bands=True, alpha=True):
        out[window] = part
    assert np.array_equal(out, expected)


def test_what_counts_of_channels_mean() -> None:
    def of(*words: object, **options: bool) -> str:
        return str(Layout.of(*words, **options))

    assert [of(n) for n in (1, 2, 3, 4, 5)] == ["gray", "gray + alpha", "rgb", "rgb + alpha", "5 bands"]
    assert [of(n, alpha=True) for n in (2, 3, 4, 5)] == [
        "gray + alpha", "2 bands + alpha", "rgb + alpha", "4 bands + alpha",
    ]  # fmt: skip
    assert [of(n, alpha=False) for n in (1, 2, 3, 4)] == ["gray", "2 bands", "rgb", "4 bands"]
    assert [of(n, bands=True) for n in (2, 4)] == ["2 bands", "4 bands"]
    assert of(4, bands=True, alpha=True) == "3 bands + alpha"
    assert [of(n, classes=True) for n in (1, 3)] == ["classes", "3 channels of classes"]
    with pytest.raises(ArgumentError, match="alpha goes with at least one other channel, got 1 in all"):
        Layout.of(1, alpha=True)


def test_models_of_several_channels_take_bands_without_their_alpha(tmp_path: Path) -> None:
    """Alpha never goes through a network, not even one with as many channels as the image."""
    _, four = spec.load(colour(tmp_path / "four.onnx", 4))
    check_layout(four, Layout("bands", 5, True))
    with pytest.raises(ImageError, match=r"takes images of 4 channels, got 3 bands \+ alpha"):
        check_layout(four, Layout("bands", 4, True))
    image = cut_out(5, np.uint8)
    with Engine(tmp_path / "four.onnx", provider="cpu", tile=16) as engine:
        got = engine.upscale(image, bands=True, alpha=True)
    assert np.array_equal(got[..., -1], image[..., -1])  # of scale 1, bicubic changes nothing
    assert margin_for(four, Layout("bands", 5, True)) > margin_for(four, Layout("bands", 4))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_path_in_the_graph_is_the_same(dtype: type) -> None:
    data, found = spec.load(TEST_MODEL)
    ready = prepare.build_program(data, found)
    layout = Layout("bands", 4, True)
    proto = image_graph.build_image_graph(spec.parse(ready.data), ready.spec, layout, np.dtype(dtype))
    graph = Graph(proto, ready.spec, layout)
    image = cut_out(4, dtype)
    with Engine(TEST_MODEL, provider="cpu", tile=None) as engine:
        expected = engine.upscale(image, bands=True, alpha=True)
    assert_same(graph.tiled(image, 16), expected, layout, minimum=0.99)


def test_alpha_beside_inks(engine: Engine, tmp_path: Path) -> None:
    image = cut_out(5, np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="separated", extrasamples=["unassalpha"], metadata=None
    )
    engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    assert np.array_equal(by_tifffile(tmp_path / "b.tif"), engine.upscale(image, bands=True, alpha=True))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.SEPARATED
        assert file.pages[0].extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)


# A band that is called alpha


def test_a_band_that_is_called_alpha_is_a_band_if_somebody_says_so(engine: Engine, tmp_path: Path) -> None:
    image = image_of(4, np.uint16)
    image = np.maximum(image, 500).astype(np.uint16)
    source = in_file(tmp_path / "a.tif", image, RGBA, **PLACE)
    report = engine.upscale_file(source, tmp_path / "b.tif", bands=True)
    assert (report.layout, report.warnings) == ("4 bands", ())
    got = by_tifffile(tmp_path / "b.tif")
    for k in range(4):
        assert np.array_equal(got[..., k], engine.upscale(image[..., k]))
    with rasterio.open(tmp_path / "b.tif") as file:
        assert file.colorinterp == RGBA
    with tifffile.TiffFile(source) as a, tifffile.TiffFile(tmp_path / "b.tif") as b:
        assert a.pages[0].extrasamples == b.pages[0].extrasamples
    out = np.zeros_like(got)
    for window, part in engine.stream(source, bands=True):
        out[window] = part
    assert np.array_equal(out, got)
    with pytest.raises(ArgumentError, match="alpha is for arrays"):
        list(engine.stream(source, alpha=True))
    assert engine.estimate(source, tmp_path / "c.tif", bands=True).raw_bytes == got.nbytes


def doubted(engine: Engine, source: Path) -> tuple[str, ...]:
    return engine.upscale_file(source, source.with_name("out.tif"), overwrite=True).warnings


def test_alpha_that_looks_like_data_is_said_to(engine: Engine, tmp_path: Path) -> None:
    image = image_of(4, np.uint16)
    line = f"{tmp_path}/a.tif: band 4 is called alpha but {{}}; --bands treats it as a band"
    source = in_file(tmp_path / "a.tif", image, RGBA, **PLACE)
    assert doubted(engine, source) == (line.format("looks like data"),)
    image[..., 3] = 255  # a mask of 8 bits among 16
    assert doubted(engine, in_file(source, image, RGBA, **PLACE)) == (line.format("looks like data"),)
    image[..., 3] = 0
    assert doubted(engine, in_file(source, image, RGBA, **PLACE)) == (
        line.format("hides all that was looked at"),
    )
    image = cut_out(4, np.uint16)
    assert doubted(engine, in_file(source, image, RGBA, **PLACE)) == ()
    image[..., 3] = 65535
    assert doubted(engine, in_file(source, image, RGBA, **PLACE)) == ()
    image = image_of(4, np.uint16)  # an image may be as it likes
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        in_file(source, image, RGBA)
    assert doubted(engine, source) == ()


def test_the_command_line_warns_once_and_takes_bands(tmp_path: Path) -> None:
    source = in_file(tmp_path / "a.tif", image_of(4, np.uint8), RGBA, **PLACE)
    words = ["upscale", str(source), "--provider", "cpu", "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert (
        done.stderr
        == f"warning: {source}: band 4 is called alpha but looks like data; --bands treats it as a band\n"
    )
    report = json.loads(done.stdout)
    assert (report["layout"], len(report["warnings"])) == ("rgb + alpha", 1)
    done = CliRunner().invoke(main, [*words, "--bands", "--overwrite"])
    assert (done.stderr, json.loads(done.stdout)["layout"]) == ("", "4 bands")


# Classes

# Numbers between which there are others, that no class has.
COLORS = {20 * k: (37 * k % 256, 91 * k % 256, 255 - k, 255) for k in range(12)}


def land(h: int = 300, w: int = 290, dtype: type = np.uint8) -> np.ndarray:
    return (drawing(h, w, 1) * 11).astype(dtype) * dtype(20)


def land_file(path: Path, image: np.ndarray, **options: object) -> Path:
    write(path, image, **PLACE, **options)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, COLORS)
        file.descriptions = ("land cover",)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("scale", [2, 3])
def test_classes_are_copied_with_their_colours(tmp_path: Path, dtype: type, cog: bool, scale: int) -> None:
    image = land(700, 690, dtype) if cog else land(dtype=dtype)
    source = land_file(tmp_path / "a.tif", image, nodata=0)
    with Engine(f"bicubic-x{scale}", provider="cpu", tile=64) as engine:
        engine._setup.networks[0].bind = None  # whoever asks for a network is told
        report = engine.upscale_file(source, tmp_path / "b.tif", classes=True, cog=cog)
    assert report.layout == "classes"
    expected = image.repeat(scale, 0).repeat(scale, 1)
    assert np.array_equal(by_tifffile(tmp_path / "b.tif"), expected)
    with rasterio.open(source) as a, rasterio.open(tmp_path / "b.tif") as b:
        assert np.array_equal(b.read(1), expected[..., 0])
        assert b.colorinterp == (Role.palette,)
        assert b.colormap(1) == a.colormap(1)
        assert (b.nodata, b.descriptions) == (0, ("land cover",))
        assert b.transform.a == a.transform.a / scale
        levels = b.overviews(1)
    assert bool(levels) == cog
    for k in range(len(levels)):
        with rasterio.open(tmp_path / "b.tif", overview_level=k) as file:
            assert set(np.unique(file.read(1))) <= set(np.unique(image))
            assert file.colorinterp == (Role.palette,)
    with tifffile.TiffFile(source) as a, tifffile.TiffFile(tmp_path / "b.tif") as b:
        assert b.pages[0].photometric == tifffile.PHOTOMETRIC.PALETTE
        assert np.array_equal(a.pages[0].colormap, b.pages[0].colormap)


def test_overviews_of_classes_hold_classes(engine: Engine, tmp_path: Path) -> None:
    image = land(600, 650)
    source = land_file(tmp_path / "a.tif", image)
    with rasterio.open(source, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    engine.upscale_file(source, tmp_path / "b.tif", classes=True)
    for k in (0, 1):
        with rasterio.open(tmp_path / "b.tif", overview_level=k) as file:
            made = file.read(1)
            assert set(np.unique(made)) <= set(np.unique(image))
            if k == 0:  # of four copies of a class most are that class
                assert np.array_equal(made, image[..., 0])


def test_a_palette_on_the_ground_is_refused_without_being_called_classes(
    engine: Engine, tmp_path: Path
) -> None:
    source = land_file(tmp_path / "a.tif", land(40, 50))
    for options in ({}, {"bands": True}):
        with pytest.raises(
            ImageError, match=r"a\.tif: a georeferenced image with a palette .* use --classes"
        ) as error:
            engine.upscale_file(source, tmp_path / "b.tif", **options)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "b.tif").exists()
    done = CliRunner().invoke(main, ["upscale", str(source), "--provider", "cpu", "--classes", "--quiet"])
    assert done.exit_code == 0, done.output
    assert np.array_equal(by_tifffile(tmp_path / "a_x2.tif"), land(40, 50).repeat(2, 0).repeat(2, 1))


def test_names_attributes_and_masks_of_classes_come_along(engine: Engine, tmp_path: Path) -> None:
    image = land(40, 50)
    mask = np.ones((40, 50), bool)
    mask[5:9, 7:30] = False
    source = write(tmp_path / "a.tif", image, **PLACE)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(source, "r+") as file:
        file.write_colormap(1, COLORS)
        file.write_mask(mask)
    names = "".join(f"<Category>class {k} &amp; more</Category>" for k in range(12))
    table = (
        '<GDALRasterAttributeTable tableType="thematic"><FieldDefn index="0"><Name>VALUE</Name><Type>0</Type>'
        '<Usage>5</Usage></FieldDefn><FieldDefn index="1"><Name>COUNT</Name><Type>0</Type><Usage>1</Usage>'
        '</FieldDefn><Row index="0"><F>3</F><F>17</F></Row></GDALRasterAttributeTable>'
    )
    (tmp_path / "a.tif.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>{table}'
        "<Histograms/></PAMRasterBand></PAMDataset>"
    )
    engine.upscale_file(source, tmp_path / "b.tif", classes=True)
    beside = (tmp_path / "b.tif.aux.xml").read_text()
    assert beside.count("<Category>") == 12
    assert "class 11 &amp; more" in beside
    assert "<F>3</F><F>68</F>" in beside  # four times as many pixels
    assert "Histograms" not in beside
    assert np.array_equal(by_tifffile(tmp_path / "b.tif"), image.repeat(2, 0).repeat(2, 1))
    with rasterio.open(tmp_path / "b.tif") as file:
        assert np.array_equal(file.read_masks(1) > 0, mask.repeat(2, 0).repeat(2, 1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "a.tif.aux.xml", "b.tif", "b.tif.aux.xml"]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_classes_of_few_bits_keep_their_numbers(engine: Engine, tmp_path: Path, bits: int) -> None:
    image = (land(40, 50) // 20 % 2**bits).astype(np.uint8)
    source = write(tmp_path / "a.tif", image, nbits=bits, photometric="PALETTE", **PLACE)
    with rasterio.open(source, "r+") as file:
        file.write_colormap(1, {k: COLORS[20 * (k % 12)] for k in range(2**bits)})
    engine.upscale_file(source, tmp_path / "b.tif", classes=True)
    assert np.array_equal(by_tifffile(tmp_path / "b.tif"), image.repeat(2, 0).repeat(2, 1))
    with rasterio.open(source) as a, rasterio.open(tmp_path / "b.tif") as b:
        before, after = a.colormap(1), b.colormap(1)
    assert {k: after[k] for k in range(2**bits)} == {k: before[k] for k in range(2**bits)}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64])
def test_classes_in_arrays(engine: Engine, dtype: type) -> None:
    image = land(40, 50).astype(dtype)
    image[3, 4] = np.iinfo(dtype).max
    expected = image.repeat(2, 0).repeat(2, 1)
    got = engine.upscale(image, classes=True, nodata=3)
    assert got.dtype == dtype
    assert np.array_equal(got, expected)
    target = np.zeros((80, 100), dtype)
    engine.upscale_into(image[..., 0], target, classes=True)
    assert np.array_equal(target, expected[..., 0])
    out = np.zeros_like(expected)
    for window, part in engine.stream(image, classes=True):
        out[window] = part
    assert np.array_equal(out, expected)


def test_classes_ask_no_model_for_anything(tmp_path: Path) -> None:
    """Neither its channels nor its fixed windows matter."""
    image = land(40, 50)
    for model in (colour(tmp_path / "four.onnx", 4), "srcnn-955-rgb-x3"):
        for whole in (False, True):
            with Engine(model, provider="cpu", tile=None if whole else 8) as engine:
                s = engine.scale
                assert np.array_equal(engine.upscale(image, classes=True), image.repeat(s, 0).repeat(s, 1))


def test_classes_that_cannot_be(engine: Engine, tmp_path: Path) -> None:
    for image in (np.zeros((9, 9), np.float32), np.zeros((9, 9), np.complex64)):
        with pytest.raises(ArgumentError, match="classes are whole numbers, got"):
            engine.upscale(image, classes=True)
    source = write(tmp_path / "f.tif", image_of(1, np.float32), **PLACE)
    with pytest.raises(ArgumentError, match=r"f\.tif: classes are whole numbers, got float32"):
        engine.upscale_file(source, tmp_path / "b.tif", classes=True)
    source = land_file(tmp_path / "a.tif", land(40, 50))
    with pytest.raises(OutputError, match=r"b\.png: PNG holds gray or RGB, got classes; write a TIFF"):
        engine.upscale_file(source, tmp_path / "b.png", classes=True)
    with pytest.raises(OutputError, match=r"b\.zarr: Zarr cannot hold the colors of classes"):
        engine.upscale_file(source, tmp_path / "b.zarr", classes=True)
    import cv2

    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((9, 9), np.uint8))
    with pytest.raises(ArgumentError, match=r"c\.png: classes are read from TIFF and Zarr, got a PNG"):
        engine.upscale_file(tmp_path / "c.png", tmp_path / "b.tif", classes=True)


def test_classes_in_zarr_are_not_blended_at_any_level(engine: Engine, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    image = land()[..., 0]
    zarr.save_array(str(tmp_path / "a.zarr"), image)
    engine.upscale_file(tmp_path / "a.zarr", tmp_path / "b.zarr", classes=True)
    assert np.array_equal(zarr.open(str(tmp_path / "b.zarr"))[:], image.repeat(2, 0).repeat(2, 1))
    source = write(tmp_path / "c.tif", land(), **PLACE)
    engine.upscale_file(source, tmp_path / "c.zarr", classes=True)
    group = zarr.open(str(tmp_path / "c.zarr"))
    assert "1" in group
    for k in group:
        assert set(np.unique(group[k][:])) <= set(np.unique(image))


@pytest.mark.parametrize("options", [{"bands": True}, {"nodata": 7}, {"nodata": "none"}, {"classes": True}])
def test_what_samples_are_taken_for_is_part_of_the_job(
    engine: Engine, tmp_path: Path, options: dict[str, object]
) -> None:
    source = write(tmp_path / "a.tif", image_of(1, np.uint8), **PLACE)
    plain = engine.job(source, tmp_path / "b.tif").facts()
    facts = engine.job(source, tmp_path / "b.tif", **options).facts()
    assert {k for k in facts if facts[k] != plain[k]} == set(options)
    assert json.loads(json.dumps(facts)) == facts
    nan = engine.job(source, tmp_path / "b.tif", nodata=float("nan")).facts()
    assert nan == engine.job(source, tmp_path / "b.tif", nodata=float("nan")).facts()
    seven = engine.job(source, tmp_path / "b.tif", nodata=np.float32(7)).facts()
    assert seven == engine.job(source, tmp_path / "b.tif", nodata=7).facts()


def test_a_second_run_with_another_reading_does_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "ab":
        write(folder / f"{name}.tif", image_of(1, np.uint8), **PLACE)
    words = ["upscale", str(folder), "-o", f"{tmp_path / 'out'}/", "--provider", "cpu"]
    assert "2 done" in CliRunner().invoke(main, words).stdout
    assert "0 done, 2 done before" in CliRunner().invoke(main, words).stdout
    done = CliRunner().invoke(main, [*words, "--nodata", "7"])
    assert "already exists" in done.stderr
    done = CliRunner().invoke(main, [*words, "--nodata", "7", "--overwrite"])
    assert "2 done" in done.stdout
    assert "0 done, 2 done before" in CliRunner().invoke(main, [*words, "--nodata", "7"]).stdout


def test_nodata_must_be_a_number_or_none() -> None:
    for value in ("7", True, [1]):
        with pytest.raises(ArgumentError, match="nodata must be a number, 'none' or None"):
            Reading(nodata=value)
    done = CliRunner().invoke(main, ["upscale", "a.tif", "--nodata", "much"])
    assert done.exit_code == 2
    assert "nodata must be a number or none, got 'much'" in done.stderr
