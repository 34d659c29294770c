"""Nodata, masks, NaN and infinity, checked against the rule in NumPy.

Samples farther than the margin from nodata equal the plain result bit for bit. Nodata is enlarged by copying.
No valid sample gets the nodata value. The result does not depend on the tile.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srcnn_rt import ArgumentError, Engine, OutputError
from srcnn_rt.execution import normalization
from srcnn_rt.execution.executor import process
from srcnn_rt.execution.normalization import DataRange, Normalization
from srcnn_rt.image.info import ImageInfo, Layout
from srcnn_rt.io.in_memory import ArraySink, ArraySource
from srcnn_rt.io.metadata.nodata_tag import digits_within
from tests.conftest import drawing
from tests.helpers.tiffs import by_tifffile, image_of, reads_back, write

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SCALES = (2, 3, 4)
TILES = (8, 13, 512)


@pytest.fixture(scope="module")
def engines() -> dict[tuple[int, int], Engine]:
    return {(s, t): Engine(f"bicubic-x{s}", provider="cpu", tile=t, threads=2) for s in SCALES for t in TILES}


class Masked(ArraySource):
    """An array with a separate mask."""

    def __init__(self, array: np.ndarray, info: ImageInfo, mask: np.ndarray | None) -> None:
        super().__init__(array, info)
        self._mask = mask

    def read_mask(self, y: object, x: object) -> np.ndarray:
        return self._mask[y.start : y.stop, x.start : x.stop]


def run(
    engine: Engine,
    image: np.ndarray,
    layout: Layout,
    nodata: float | None,
    mask: np.ndarray | None,
    mapped: Normalization | None = None,
) -> np.ndarray:
    """Upscale an array; with the offset and the unit of `mapped`, if it is given."""
    source = masked(image, layout, nodata, mask)
    sink = ArraySink(source.info.scaled(engine.scale))
    sink.array[...] = 77  # reveals samples that are not written
    with pytest.MonkeyPatch.context() as patch:
        if mapped is not None:
            own = normalization.for_image(source, engine.spec, DataRange())
            same = replace(own, gain=mapped.gain, offset=mapped.offset)
            patch.setattr(normalization, "for_image", lambda *_: same)
        process(source, sink, engine._setup, engine._pool)
    return sink.array


def masked(image: np.ndarray, layout: Layout, nodata: float | None, mask: np.ndarray | None) -> Masked:
    info = ImageInfo(image.shape[:2], layout, image.dtype, nodata=nodata, masked=mask is not None)
    return Masked(image, info, mask)


def holes(image: np.ndarray, layout: Layout, nodata: float | None, mask: np.ndarray | None) -> np.ndarray:
    """Return which samples are nodata by the rule, without code of the package."""
    h, w, c = image.shape
    found = np.zeros((h, w, c), bool)
    colors = c - layout.alpha
    for y in range(h):
        for x in range(w):
            pixel = image[y, x, :colors]
            gone = [False] * colors
            if nodata is not None and nodata == nodata:
                gone = [v == np.float32(nodata) if image.dtype.kind == "f" else v == nodata for v in pixel]
                if layout.color == "rgb":
                    gone = [all(gone)] * colors
            bad = [not np.isfinite(v) for v in pixel]
            if layout.color == "rgb":
                bad = [any(bad)] * colors
            hidden = mask is not None and not mask[y, x]
            found[y, x, :colors] = [a or b or hidden for a, b in zip(gone, bad, strict=True)]
    return found


def near(found: np.ndarray, radius: int) -> np.ndarray:
    """Return which pixels have one of these in a square of `radius` around them."""
    out = np.zeros_like(found)
    for y, x in zip(*np.nonzero(found), strict=True):
        out[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
    return out


def check(engine: Engine, image: np.ndarray, layout: Layout, nodata: float | None, mask: np.ndarray | None):
    """Check a result against the rule; return it."""
    s = engine.scale
    got = run(engine, image, layout, nodata, mask)
    gone = holes(image, layout, nodata, mask)
    calm = image.copy()  # filled differently: pixels far from the holes must not depend on it
    calm[gone] = 3
    # Bit for bit with the same offset, which is that of the valid samples.
    mapped = normalization.for_image(masked(image, layout, nodata, mask), engine.spec, DataRange())
    plain = run(engine, calm, layout, None, None, mapped)
    margin = engine.margin * (2 if layout.alpha else 1)
    colors = image.shape[2] - layout.alpha
    for c in range(colors):
        big = gone[:, :, c].repeat(s, 0).repeat(s, 1)
        own = image[:, :, c].repeat(s, 0).repeat(s, 1)
        assert np.array_equal(got[:, :, c][big], own[big], equal_nan=image.dtype.kind == "f")
        others = gone.any(axis=2) if layout.color != "bands" else gone[:, :, c]
        far = ~near(others, margin).repeat(s, 0).repeat(s, 1)
        value = None if nodata is None else image.dtype.type(nodata)
        moved = plain[:, :, c] == value if value is not None else np.zeros_like(far)
        assert np.array_equal(got[:, :, c][far & ~moved], plain[:, :, c][far & ~moved])
        if image.dtype.kind == "f":
            assert np.isfinite(got[:, :, c][~big]).all()
    if nodata is not None and nodata == nodata:
        same = got[:, :, :colors] == image.dtype.type(nodata)
        if layout.color == "rgb":
            same = same.all(axis=2, keepdims=True)
        assert not (same & ~gone[:, :, :colors].repeat(s, 0).repeat(s, 1)).any()
    return got


LAYOUTS = [
    Layout("gray", 1),
    Layout("gray", 2, True),
    Layout("rgb", 3),
    Layout("rgb", 4, True),
    Layout("bands", 3),
]


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_holes_follow_the_rule_whatever_the_tile(
    engines: dict[tuple[int, int], Engine], data: st.DataObject
) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    h, w = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    image = image_of(layout.channels, dtype, h, w, int(rng.integers(100)))
    share = data.draw(st.sampled_from([0.0, 0.01, 0.3, 0.97, 1.0]))
    places = rng.random((h, w)) < share
    if data.draw(st.booleans()):  # a block, as at the edge of a scene
        places[: h // 2, : w // 2] = True
    kind = data.draw(st.sampled_from(["nodata", "mask", "both", "nan"]))
    nodata: float | None = None
    mask = None
    if kind in ("nodata", "both"):
        value = image[rng.integers(h), rng.integers(w), 0] if rng.random() < 0.5 else image.dtype.type(0)
        nodata = float(value)
        each = places[..., np.newaxis] if layout.color != "bands" else rng.random(image.shape) < share
        colors = layout.channels - layout.alpha
        image[:, :, :colors][np.broadcast_to(each, image.shape)[:, :, :colors]] = value
    if kind in ("mask", "both"):
        mask = ~(rng.random((h, w)) < share if kind == "both" else places)
    if kind == "nan":
        if dtype is not np.float32:
            dtype, image = np.float32, image.astype(np.float32)
        bad = rng.choice([np.nan, np.inf, -np.inf], image[..., :1].shape).astype(np.float32)
        image[..., :1] = np.where(places[..., np.newaxis], bad, image[..., :1])
        nodata = float("nan") if rng.random() < 0.5 else None
    scale = data.draw(st.sampled_from(SCALES))
    before = image.copy()
    results = [check(engines[scale, tile], image, layout, nodata, mask) for tile in TILES]
    assert np.array_equal(image, before, equal_nan=dtype is np.float32)  # the source is not changed
    for other in results[1:]:
        assert np.array_equal(other, results[0], equal_nan=dtype is np.float32)


def test_the_network_itself_follows_the_rule(tmp_path: Path) -> None:
    """With a trained model, which has a larger margin, and with exact integer weights, tile by tile."""
    image = image_of(3, np.float32, 60, 70)
    image[20:30, 40:45] = -9999
    image[5, 5, 1] = np.nan
    results = []
    for tile in (16, 37, 512):
        with Engine("srcnn-915-x2", provider="cpu", tile=tile) as engine:
            results.append(run(engine, image, Layout("rgb", 3), -9999.0, None))
            gone = holes(image, Layout("rgb", 3), -9999.0, None)[..., 0]
            far = ~near(gone, engine.margin).repeat(2, 0).repeat(2, 1)
            calm = image.copy()
            calm[gone] = 0.5
            plain = run(engine, calm, Layout("rgb", 3), None, None)
            assert np.abs(results[-1] - plain)[far].max() < 1e-5
            assert (results[-1][40:60, 80:90] == -9999).all()
    for other in results[1:]:
        assert np.allclose(other, results[0], atol=1e-5, equal_nan=True)


def test_no_halo_at_the_edge_of_nodata() -> None:
    """Next to nodata the image is continued: a constant stays constant up to the edge."""
    image = np.full((40, 40, 1), 100, np.uint8)
    image[:, 20:] = 0
    with Engine("srcnn-915-x2", provider="cpu", tile=16) as engine:
        got = run(engine, image, Layout("gray", 1), 0.0, None)
        plain = run(engine, np.full((40, 40, 1), 100, np.uint8), Layout("gray", 1), None, None)
    assert (got[:, 40:] == 0).all()
    assert np.abs(got[:, :40].astype(int) - plain[:, :40]).max() <= 1


def test_floats_beyond_what_a_network_can_bear_are_no_data() -> None:
    """Magnitudes from 2**120 on are nodata. Smaller ones are valid, and pixels far away do not change."""
    image = image_of(1, np.float32, 40, 50)
    lowest, maximum = np.finfo(np.float32).min, np.finfo(np.float32).max
    for k, value in enumerate((lowest, maximum, 2.0**120, -(2.0**120), 1e37)):
        image[5 + 6 * k, 20:23] = value
    with Engine("srcnn-915-x2", provider="cpu", tile=16) as engine:
        got = run(engine, image, Layout("gray", 1), None, None)
        gone = np.abs(image) >= 2.0**120
        big, own = (a[..., 0].repeat(2, 0).repeat(2, 1) for a in (gone, image))
        assert np.array_equal(got[big], own[big][:, None])
        calm = run(engine, np.where(gone, np.float32(0.5), image), Layout("gray", 1), None, None)
        far = ~near(gone[..., 0], engine.margin).repeat(2, 0).repeat(2, 1)
        assert far.any()
        assert np.abs(got - calm)[far].max() < 1e-5
        assert np.abs(got[~big]).max() < 2
        bands = np.concatenate([image, image_of(1, np.float32, 40, 50, 3)], axis=2)
        assert np.array_equal(run(engine, bands, Layout("bands", 2), None, None)[..., :1], got)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.uint8, np.float16, np.float64])
def test_the_rule_holds_for_samples_of_any_type(dtype: type) -> None:
    """Nodata alone for all types of a source: the nodata value and the value next to it."""
    from srcnn_rt.image import nodata as image_nodata

    kind = np.dtype(dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    for value in (0, 7, limits.min, limits.max):
        if kind == np.int64 and value == limits.max:
            continue  # GDAL's texts are doubles, which cannot hold it
        part = np.full((6, 6, 2), 5, kind)
        part[2, 3, 0] = value
        info = ImageInfo((6, 6), Layout("bands", 2), kind, nodata=float(value))
        found = image_nodata.invalid(part, info)
        assert found is not None
        assert np.argwhere(found).tolist() == [[2, 3, 0]]
        filled = image_nodata.fill(part, found, info, 2)
        assert filled.dtype == kind
        assert (filled == 5).all()
        out = np.full((6, 6, 2), value, kind)
        image_nodata.put_back(out, part, found, info, 1)
        assert out[2, 3, 0] == value
        out[2, 3, 0] = 5
        assert (out != kind.type(value)).all()
        assert np.isfinite(out.astype(np.float64)).all()


@pytest.mark.parametrize(
    ("text", "kind", "within"),
    [
        ("-3.402823e+38", np.float32, 4 * 2.0**-23 * 3.402823e38),
        ("-3.40282e+38", np.float32, 5e32),
        ("-3.402823e+38", np.float64, 5e31),
        ("-9999", np.float32, 4 * 2.0**-23 * 9999),
        ("-9999.1", np.float64, 0),
        ("12345.678", np.float64, 0),
        ("-3.4e+38", np.float64, 0),
        ("1e20", np.float64, 0),
        ("-1.79769313486231e+308", np.float64, 5e293),
        ("-1.79769313486232e+308", np.float64, 0),  # rounded beyond the range, nodata in any case
        ("-9999", np.int16, 0),
        ("0", np.float32, 0),
        ("nan", np.float32, 0),
        ("-inf", np.float32, 0),
        ("1e400", np.float32, 0),
        ("1.234567e-999999999999", np.float32, 0),
        ("1.234567e9999999999999999999", np.float32, 0),
        ("9" * 1000, np.float64, 0),
        ("snan", np.float32, 0),
        ("", np.float32, 0),
        ("none of these", np.float32, 0),
        ("-9999\0", np.float32, 4 * 2.0**-23 * 9999),
    ],
)
def test_how_near_a_text_is_to_what_it_means(text: str, kind: type, within: float) -> None:
    assert digits_within(text, np.dtype(kind)) == pytest.approx(within, rel=1e-6)


# In files


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("bicubic-x2", provider="cpu", tile=32, threads=2)


def upscaled(engine: Engine, source: Path, **how: object) -> Path:
    target = source.with_name("out.tif")
    engine.upscale_file(source, target, overwrite=True, **how)
    return target


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        (np.uint8, 0),
        (np.uint8, 255),
        (np.uint16, 65535),
        (np.float32, -9999),
        (np.float32, -9999.1),
        (np.float32, -3.4028234663852886e38),
        (np.float32, 1e-40),
        (np.float32, np.nan),
        (np.float32, np.inf),
    ],
)
def test_nodata_values_are_found_and_written(
    engine: Engine, tmp_path: Path, dtype: type, nodata: float, cog: bool
) -> None:
    image = image_of(1, dtype, 40, 50)
    image[image == nodata] = 100
    image[10:20, 15:30] = nodata
    target = upscaled(engine, write(tmp_path / "a.tif", image, nodata=nodata), cog=cog)
    with rasterio.open(target) as file:
        assert np.array_equal(
            file.nodata, np.float32(nodata) if dtype is np.float32 else nodata, equal_nan=True
        )
        valid = file.read_masks(1) > 0
    expected = np.zeros((80, 100), bool)
    expected[20:40, 30:60] = True
    if not np.isinf(nodata):
        assert (valid == ~expected).all()
    reads_back(target, run(engine, image, Layout("gray", 1), float(nodata), None))


def test_rgb_is_nodata_where_all_three_are(engine: Engine, tmp_path: Path) -> None:
    image = image_of(3, np.uint8)
    image[10:20, 10:20] = 0
    image[30:35, 30:35, 0] = 0  # a color without red is valid
    source = write(tmp_path / "a.tif", image, photometric="RGB", nodata=0)
    got = by_tifffile(upscaled(engine, source))
    assert (got == check(engine, image, Layout("rgb", 3), 0.0, None)).all()
    assert (got[20:40, 20:40] == 0).all()
    assert (got[60:70, 60:70, 1:] > 0).any()


def test_bands_are_nodata_each_on_its_own(engine: Engine, tmp_path: Path) -> None:
    image = image_of(5, np.uint16)
    for k in range(5):
        image[5 * k : 5 * k + 4, 10:30, k] = 7
    source = write(tmp_path / "a.tif", image, photometric="MINISBLACK", nodata=7)
    target = upscaled(engine, source)
    assert (by_tifffile(target) == check(engine, image, Layout("bands", 5), 7.0, None)).all()
    with rasterio.open(target) as file:
        assert file.nodatavals == (7,) * 5
        for k in range(5):
            assert (file.read_masks(k + 1) == 0).sum() == 4 * 4 * 20


@pytest.mark.parametrize("text", ["-9999", "256", "3.5", "nan", "1e300"])
def test_a_value_that_no_sample_can_have_is_kept_and_does_nothing(
    engine: Engine, tmp_path: Path, text: str
) -> None:
    image = image_of(1, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image[..., 0], extratags=[(42113, "s", 0, text, True)])
    target = upscaled(engine, tmp_path / "a.tif")
    reads_back(target, engine.upscale(image))
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].tags[42113].value == text


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("where", ["inside", "beside"])
@pytest.mark.parametrize("cog", [False, True])
def test_masks(engine: Engine, tmp_path: Path, channels: int, where: str, cog: bool) -> None:
    image = image_of(channels, np.uint8, 300, 290)
    mask = np.random.default_rng(0).random((300, 290)) < 0.995
    mask[100:180, 30:200] = False
    h, w, c = image.shape
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=where == "inside"),
        rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", height=h, width=w, count=c, dtype="uint8",
            photometric="RGB" if c == 3 else "MINISBLACK",
        ) as file,
    ):  # fmt: skip
        file.write(image.transpose(2, 0, 1))
        file.write_mask(mask)
    assert (tmp_path / "a.tif.msk").exists() == (where == "beside")
    target = upscaled(engine, tmp_path / "a.tif", cog=cog)
    expected = check(engine, image, Layout.of(c), None, mask)
    assert (by_tifffile(target) == expected).all()
    big = mask.repeat(2, 0).repeat(2, 1)
    with rasterio.open(target) as file:
        assert ((file.read_masks(1) > 0) == big).all()
    if not cog:
        with tifffile.TiffFile(target) as file:  # 1 bit per pixel, in a separate directory
            assert [int(p.subfiletype) for p in file.pages] == [0, 4]
            assert (file.pages[1].asarray() == big).all()


@pytest.mark.parametrize("orientation", [1, 2, 3, 6])
@pytest.mark.parametrize("tiled", [False, True])
def test_masks_turn_with_their_image(engine: Engine, tmp_path: Path, orientation: int, tiled: bool) -> None:
    image = image_of(1, np.uint8)
    mask = np.zeros((45, 60), bool)
    mask[3:20, 5:50] = True
    how = {"tile": (16, 16)} if tiled else {}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image[..., 0], metadata=None, extratags=[(274, "H", 1, orientation, True)], **how)
        file.write(mask, photometric=4, metadata=None, subfiletype=4, bitspersample=1, compression="deflate")
    turn = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, -1)}[
        orientation
    ]
    target = upscaled(engine, tmp_path / "a.tif")
    with rasterio.open(target) as file:
        assert ((file.read_masks(1) > 0) == turn(mask).repeat(2, 0).repeat(2, 1)).all()
    expected = check(engine, np.ascontiguousarray(turn(image)), Layout("gray", 1), None, turn(mask))
    assert (by_tifffile(target) == expected).all()


def test_nan_and_infinity_stay_where_they_are(engine: Engine, tmp_path: Path) -> None:
    image = image_of(1, np.float32)
    image[5, 5], image[10:15, 20], image[30, 30] = np.nan, np.inf, -np.inf
    target = upscaled(engine, write(tmp_path / "a.tif", image))
    got = by_tifffile(target)[..., 0]
    assert (~np.isfinite(got) == (~np.isfinite(image[..., 0])).repeat(2, 0).repeat(2, 1)).all()
    reads_back(target, check(engine, image, Layout("gray", 1), None, None))


def tagged(path: Path, image: np.ndarray, text: str) -> Path:
    tifffile.imwrite(path, image[..., 0], extratags=[(42113, "s", 0, text, True)])
    return path


@pytest.mark.parametrize("text", ["-3.402823e+38", "-3.40282347e+38", "-3.4028234663852886e+38"])
@pytest.mark.parametrize("value", [np.finfo(np.float32).min, np.float32(1.2345678e30)])
def test_nodata_within_the_digits_of_its_text(
    engine: Engine, tmp_path: Path, text: str, value: np.float32
) -> None:
    """The tag has fewer digits than the samples: both samples and tag are kept unchanged."""
    if value > 0:
        text = {"-3.402823e+38": "1.234568e+30"}.get(text, "1.23456779e+30")
    image = image_of(1, np.float32)
    image[10:20, 15:30] = value
    image[30, 5:9] = np.nan
    target = upscaled(engine, tagged(tmp_path / "a.tif", image, text))
    got = by_tifffile(target)
    gone = ~(np.abs(image) < 1e29)
    big = gone[..., 0].repeat(2, 0).repeat(2, 1)
    assert np.array_equal(got[big], image.repeat(2, 0).repeat(2, 1)[big], equal_nan=True)
    assert np.abs(got[~big]).max() < 2
    # Filled with the middle of the valid samples, so that the offset stays the same.
    data = np.sort(image[~gone])
    calm = engine.upscale(np.where(gone, data[data.size // 2], image))
    far = ~near(gone[..., 0], engine.margin).repeat(2, 0).repeat(2, 1)
    assert np.allclose(got[far], calm[far], rtol=0, atol=3e-6)  # the offset differs
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].tags[42113].value == text
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(target) as b:
        assert a.nodata == b.nodata


def test_float32_nodata_is_as_near_as_gdal_has_it(engine: Engine, tmp_path: Path) -> None:
    """GDAL masks the same area in the result as in the source."""
    rng = np.random.default_rng(0)
    value = np.float32(-9999.1)
    image = (-9999.1 + 0.05 * rng.standard_normal((45, 60, 1))).astype(np.float32)
    image[20:25, 20:40] = value
    for k in range(-6, 7):  # neighbouring floats
        image[5, 10 + k] = value
        for _ in range(abs(k)):
            image[5, 10 + k] = np.nextafter(image[5, 10 + k], np.float32(np.sign(k) * np.inf))
    target = upscaled(engine, tagged(tmp_path / "a.tif", image, "-9999.1"))
    with rasterio.open(tmp_path / "a.tif") as file:
        before = file.read_masks(1) > 0
    with rasterio.open(target) as file:
        after = file.read_masks(1) > 0
    assert 200 < (~before).sum() < 300
    assert np.array_equal(after, before.repeat(2, 0).repeat(2, 1))


def test_nodata_that_is_asked_for(engine: Engine, tmp_path: Path) -> None:
    image = image_of(1, np.uint8)
    image[image == 7] = 8
    image[10:20, 15:30] = 7
    source = write(tmp_path / "a.tif", image, nodata=0)
    target = upscaled(engine, source, nodata=7)
    assert np.array_equal(by_tifffile(target), run(engine, image, Layout("gray", 1), 7.0, None))
    with rasterio.open(target) as file:
        assert file.nodata == 7
    target = upscaled(engine, source, nodata="none")
    assert np.array_equal(by_tifffile(target), engine.upscale(image))
    with rasterio.open(target) as file:
        assert file.nodata is None
    for window, part in engine.stream(source, nodata=7):
        expected = run(engine, image, Layout("gray", 1), 7.0, None)
        assert np.array_equal(part, expected[window])
    with pytest.raises(ArgumentError, match=r"a\.tif: nodata must be a value .* uint8, got -9999"):
        upscaled(engine, source, nodata=-9999)
    floats = write(tmp_path / "f.tif", np.where(image == 7, np.nan, image / 255).astype(np.float32))
    target = upscaled(engine, floats, nodata=float("nan"))
    with rasterio.open(target) as file:
        assert np.isnan(file.nodata)
        assert (file.read_masks(1) == 0).sum() == 4 * 150


def test_nodata_of_a_coded_image(engine: Engine, tmp_path: Path) -> None:
    import cv2

    image = image_of(1, np.uint8)
    image[10:20, 15:30] = 7
    cv2.imwrite(str(tmp_path / "a.png"), image[..., 0])
    target = upscaled(engine, tmp_path / "a.png", nodata=7)
    assert np.array_equal(by_tifffile(target), run(engine, image, Layout("gray", 1), 7.0, None))
    with rasterio.open(target) as file:
        assert file.nodata == 7
    with pytest.raises(OutputError, match="PNG does not hold a nodata value; write a TIFF instead"):
        engine.upscale_file(tmp_path / "a.png", tmp_path / "b.png", nodata=7)


def test_images_of_nothing_but_nodata(engine: Engine, tmp_path: Path) -> None:
    for channels in (1, 3, 5):
        image = np.full((33, 44, channels), 9, np.uint8)
        kind = {"photometric": "RGB"} if channels == 3 else {}
        target = upscaled(engine, write(tmp_path / "a.tif", image, nodata=9, **kind))
        assert (by_tifffile(target) == 9).all()


def test_alpha_beside_nodata_is_upscaled_as_ever(engine: Engine) -> None:
    image = image_of(4, np.uint8)
    image[..., 3] = np.maximum(image[..., 3], 40)
    plain = run(engine, image, Layout("rgb", 4, True), None, None)
    image[10:20, 10:20, :3] = 0
    got = run(engine, image, Layout("rgb", 4, True), 0.0, None)
    assert (got[..., 3] == plain[..., 3]).all()


def test_the_tests_can_fail(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without filling, without restoring nodata, or with too large a radius, the checks fail."""
    from srcnn_rt.image import nodata as image_nodata

    image = drawing(30, 30, 1).astype(np.float32)
    image[12:15, 12:15] = np.nan
    check(engine, image, Layout("gray", 1), None, None)
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(image_nodata, "fill", lambda part, *rest: part)
        check(engine, image, Layout("gray", 1), None, None)
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(image_nodata, "put_back", lambda *rest: None)
        check(engine, image, Layout("gray", 1), None, None)
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(image_nodata, "_avoid_nodata", lambda *rest: None)
        flat = np.full((20, 20, 1), 100, np.uint8)
        flat[3, 3] = 104
        check(engine, flat, Layout("gray", 1), 100.0 + 1, None)
    narrow = image_nodata.fill
    wide = image.copy()
    wide[5:25, 5:25] = np.nan
    results = []
    with monkeypatch.context() as patch:
        patch.setattr(image_nodata, "fill", lambda p, i, info, radius: narrow(p, i, info, radius + 40))
        for tile in (8, 512):  # reaches farther than is read, so the result depends on the tile
            with Engine("bicubic-x2", provider="cpu", tile=tile) as other:
                results.append(run(other, wide, Layout("gray", 1), None, None))
    assert not np.array_equal(*results, equal_nan=True)
