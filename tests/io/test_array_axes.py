"""Which axes of an array are which: said, named or refused; batches, masks, nodata, and what is no alpha."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcnn_rt import ArgumentError, Engine
from srcnn_rt.io.array_axes import axes_of
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.devices import HostGpu, gpus
from tests.helpers.reference import quantise

__all__ = ["gpus"]

RGB = quantise(drawing(31, 42), np.uint8)
BATCH = np.stack([quantise(drawing(31, 42, 3, seed), np.uint8) for seed in range(3)])


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(TEST_MODEL, provider="cpu", tile=16, threads=2) as made:
        yield made


def planar(array: np.ndarray) -> np.ndarray:
    """Return (…, H, W, C) as (…, C, H, W), contiguous."""
    return np.ascontiguousarray(np.moveaxis(array, -1, -3))


# Said


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32", "float64"])
def test_planes_first_give_planes_first(engine: Engine, dtype: str) -> None:
    image = quantise(drawing(31, 42), np.uint8).astype(dtype)
    made = engine.upscale(planar(image), layout="CHW")
    assert made.flags.c_contiguous and made.dtype == np.dtype(dtype).newbyteorder("=")
    assert (made == planar(engine.upscale(image))).all()


def test_a_batch_is_upscaled_image_by_image(engine: Engine) -> None:
    expected = np.stack([engine.upscale(image) for image in BATCH])
    assert (engine.upscale(BATCH, layout="NHWC") == expected).all()
    assert (engine.upscale(planar(BATCH), layout="NCHW") == planar(expected)).all()
    target = np.zeros_like(planar(expected))
    engine.upscale_into(planar(BATCH), target, layout="NCHW")
    assert (target == planar(expected)).all()


def test_progress_of_a_batch_is_that_of_all_images(engine: Engine) -> None:
    seen: list[tuple[int, int]] = []
    engine.upscale(BATCH, layout="NHWC", progress=lambda done, total: seen.append((done, total)))
    pixels = 3 * 62 * 84
    assert seen[-1] == (pixels, pixels) and {total for _, total in seen} == {pixels}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_stream_takes_one_image_with_any_layout(engine: Engine) -> None:
    out = np.zeros((62, 84, 3), np.uint8)
    for window, part in engine.stream(planar(RGB), layout="CHW"):
        out[window] = part
    assert (out == engine.upscale(RGB)).all()


@pytest.mark.parametrize(
    ("shape", "layout", "rule"),
    [
        ((9, 8, 3), "CWH", "layout must be one of HWC, CHW, NHWC, NCHW, HW, got 'CWH'"),
        ((9, 8, 3), "HW", "layout 'HW' has 2 axes, the array 3"),
        ((9, 8), "CHW", "layout 'CHW' has 3 axes, the array 2"),
        ((0, 9, 8, 3), "NHWC", "not empty"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(
    engine: Engine, shape: tuple[int, ...], layout: Any, rule: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        engine.upscale(np.zeros(shape, np.uint8), layout=layout)
    assert rule in str(caught.value)


def test_batches_of_two_sizes_are_refused(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match="the source has 3 images, the target 2"):
        engine.upscale_into(BATCH, np.zeros((2, 62, 84, 3), np.uint8), layout="NHWC")


# Not said


@pytest.mark.parametrize("shape", [(3, 30, 40), (1, 30, 40), (4, 5, 6), (13, 64, 64), (2, 9, 5)])
def test_what_may_be_planes_first_is_refused_by_every_way_in(engine: Engine, shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    ways = [
        lambda: engine.upscale(image),
        lambda: engine.upscale_into(image, image.repeat(2, 1).repeat(2, 2)),
        lambda: next(engine.stream(image)),
    ]
    for way in ways:
        with pytest.raises(ArgumentError, match=r"may be \(C, H, W\): say layout='CHW', or layout='HWC'"):
            way()
    assert engine.upscale(image, layout="HWC", bands=True).shape == (2 * shape[0], 2 * shape[1], shape[2])


@pytest.mark.parametrize("shape", [(3, 4, 3), (1, 9, 3), (30, 40, 3), (30, 40, 13), (2, 50, 4), (1, 1, 1)])
def test_what_is_clear_is_taken(engine: Engine, shape: tuple[int, ...]) -> None:
    assert engine.upscale(np.zeros(shape, np.uint8)).shape == (2 * shape[0], 2 * shape[1], shape[2])


def test_a_stream_of_several_images_is_refused(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match="the array holds 3 images; give one of them"):
        engine.stream(BATCH, layout="NHWC")
    assert next(engine.stream(BATCH[:1], layout="NHWC"))[1].shape[1:] == (84, 3)


def test_four_axes_are_asked_for(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match="for several images say layout='NCHW' or 'NHWC'"):
        engine.upscale(BATCH)


@given(st.lists(st.integers(1, 600), min_size=3, max_size=3))
def test_an_array_is_never_taken_for_more_channels_than_it_may_have(shape: list[int]) -> None:
    """Independently of the rule's wording: a planar image of any usual number of planes is refused."""
    c, h, w = 1 + shape[0] % 16, 17 + shape[1], 17 + shape[2]
    with pytest.raises(ArgumentError):
        axes_of(np.broadcast_to(np.uint8(0), (c, h, w)))
    if c <= 4:
        assert axes_of(np.broadcast_to(np.uint8(0), (h, w, c))) == "yxc"


def test_names_of_files_are_refused(engine: Engine) -> None:
    for name in ("a.png", Path("a.png"), b"\x89PNG"):
        with pytest.raises(ArgumentError, match=r"an array is needed, got .*; upscale_file takes files"):
            engine.upscale(name)  # type: ignore[call-overload]


# Named


@pytest.mark.parametrize(
    ("names", "axes"),
    [
        (("y", "x"), "yx"),
        (("band", "y", "x"), "cyx"),
        (("latitude", "longitude", "wavelength"), "yxc"),
        (("time", "lat", "lon"), "nyx"),
        (("N", "C", "H", "W"), "ncyx"),
        (("x", "y"), "xy"),
        (("dim_0", "dim_1", "dim_2"), "yxc"),
        ((None, None), "yx"),
    ],
)
@pytest.mark.parametrize("attribute", ["dims", "names", "dimensions", "metadata"])
def test_named_axes_say_it_themselves(names: Any, axes: str, attribute: str) -> None:
    said = SimpleNamespace(dimension_names=names) if attribute == "metadata" else names
    assert axes_of(SimpleNamespace(shape=(9,) * len(names), **{attribute: said})) == axes


@pytest.mark.parametrize(
    "names", [("y", "z"), ("y", "x", "x"), ("band", "time"), ("a", "y", "x"), ("y", None)]
)
def test_names_that_are_not_understood_are_refused(names: Any) -> None:
    with pytest.raises(ArgumentError, match=r"axes named .* are not understood; .*layout="):
        axes_of(SimpleNamespace(shape=(9,) * len(names), dims=names))


def test_a_data_array_keeps_the_order_of_its_dimensions(engine: Engine) -> None:
    xarray = pytest.importorskip("xarray")
    for dims, array in (
        (("channel", "y", "x"), planar(RGB)),
        (("x", "channel", "y"), RGB.transpose(1, 2, 0)),
    ):
        made = engine.upscale(xarray.DataArray(array, dims=dims, name="image"))
        assert made.dims == dims and made.name == "image"
        assert (made.transpose("y", "x", "channel").values == engine.upscale(RGB)).all()
    four = np.dstack([RGB, np.zeros_like(RGB[..., :1])])
    # A near-infrared band of zeros hides nothing.
    made = engine.upscale(xarray.DataArray(planar(four), dims=("band", "y", "x")))
    assert (made.values == planar(engine.upscale(four, bands=True))).all()
    # Names that say nothing need the layout.
    unnamed = xarray.DataArray(planar(RGB))
    with pytest.raises(ArgumentError):
        engine.upscale(unnamed)
    assert (engine.upscale(unnamed, layout="CHW").values == planar(engine.upscale(RGB))).all()
    filled = xarray.DataArray(RGB, dims=("y", "x", "channel"), attrs={"_FillValue": -9999})
    assert (engine.upscale(filled).values == engine.upscale(RGB)).all()


def test_a_zarr_with_named_axes_goes_into_another(engine: Engine, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    names = ["c", "y", "x"]
    shape = (3, 62, 84)
    source = zarr.create_array(tmp_path / "a", data=planar(RGB), chunks=(1, 16, 16), dimension_names=names)
    target = zarr.create_array(
        tmp_path / "b", shape=shape, dtype="u1", chunks=(3, 32, 32), dimension_names=names
    )
    engine.upscale_into(source, target)
    assert (target[...] == planar(engine.upscale(RGB))).all()


def test_tensors_with_and_without_names(engine: Engine) -> None:
    torch = pytest.importorskip("torch")
    expected = planar(np.stack([engine.upscale(image) for image in BATCH]))
    tensor = torch.from_numpy(planar(BATCH))
    made = engine.upscale(tensor, layout="NCHW")
    assert isinstance(made, torch.Tensor) and (made.numpy() == expected).all()
    with pytest.raises(ArgumentError, match="say layout='CHW'"):
        engine.upscale(tensor[0])
    if not hasattr(tensor, "refine_names"):
        pytest.skip("torch has no named tensors from 2.13 on")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are experimental
        named = tensor.refine_names("N", "C", "H", "W")
        assert (engine.upscale(named).numpy() == expected).all()


def test_tensors_in_the_memory_of_a_gpu(gpus: list[HostGpu]) -> None:
    torch = pytest.importorskip("torch")
    with Engine(TEST_MODEL, provider="cuda", tile=32) as engine:
        expected = [engine.upscale(torch.from_numpy(image)).numpy() for image in BATCH]
        one = engine.upscale(torch.from_numpy(planar(BATCH[0])), layout="CHW")
        assert one.is_contiguous() and (one.numpy() == planar(expected[0])).all()
        all_ = engine.upscale(torch.from_numpy(planar(BATCH)), layout="NCHW")
        assert all_.is_contiguous() and (all_.numpy() == planar(np.stack(expected))).all()
        last = engine.upscale(torch.from_numpy(BATCH), layout="NHWC")
        assert (last.numpy() == np.stack(expected)).all()
        with pytest.raises(ArgumentError, match="say layout='CHW'"):
            engine.upscale(torch.from_numpy(planar(BATCH[0])))


# Alpha that is none


def four(last: np.ndarray) -> np.ndarray:
    return np.dstack([RGB, np.broadcast_to(last, RGB.shape[:2]).astype(np.uint8)])


DISC = 255 * (np.hypot(*np.mgrid[-15:16, -21:21]) < 12)


@pytest.mark.parametrize(
    ("last", "why"),
    [(0, "hides all that was looked at"), (drawing(31, 42, 1)[..., 0] * 250, "looks like data")],
)
def test_a_channel_that_looks_like_no_alpha_is_warned_of(engine: Engine, last: Any, why: str) -> None:
    image = four(last)
    expected = (
        f"channel 4 of the array is taken for alpha but {why}; say bands=True if it is a band, or alpha=True"
    )
    for way in (lambda: engine.upscale(image), lambda: list(engine.stream(image))):
        with pytest.warns(UserWarning, match=expected) as caught:
            way()
        assert [Path(w.filename).name for w in caught] == [Path(__file__).name]  # the caller's line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.upscale(image, alpha=True)
        engine.upscale(image, alpha=False)
        engine.upscale(image, bands=True)
    with pytest.warns(UserWarning, match="channel 2 of the array"):
        engine.upscale(image[..., 2:])


def test_a_store_is_looked_at_unless_only_a_region_is_wanted(engine: Engine, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.create_array(tmp_path / "a", data=four(np.uint8(0)), chunks=(16, 16, 4))
    target = np.zeros((62, 84, 4), np.uint8)
    with pytest.warns(UserWarning, match="channel 4 of the array is taken for alpha but hides all"):
        engine.upscale_into(store, target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.upscale_into(store, target, region=np.s_[:9, :9])


@pytest.mark.parametrize("last", [255, DISC, np.minimum(DISC, 255 - 5 * (np.arange(42) % 3 == 0))])
def test_an_alpha_is_taken_without_a_warning(engine: Engine, last: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.upscale(four(last)).shape == (62, 84, 4)


# Masks and nodata


def masked(shape: tuple[int, ...], holes: Any) -> np.ma.MaskedArray[Any, Any]:
    image = quantise(drawing(*shape), np.uint16)
    mask = np.zeros(image.shape, np.bool_)
    mask[holes] = True
    return np.ma.MaskedArray(image, mask, fill_value=7)


def test_masked_pixels_stay_out_of_the_network_and_are_masked_in_the_result(engine: Engine) -> None:
    image = masked((40, 50, 3), np.s_[10:14, 20:30])
    made = engine.upscale(image)
    assert isinstance(made, np.ma.MaskedArray) and made.fill_value == 7
    assert (made.mask == image.mask.repeat(2, 0).repeat(2, 1)).all()
    # What lies under the mask does not matter, and comes back as it is.
    other = image.copy()
    other.data[image.mask] = 65535
    again = engine.upscale(other)
    assert (again.filled(0) == made.filled(0)).all()
    assert (again.data[again.mask] == 65535).all()
    # As nodata of the same pixels.
    plain = image.filled(0)
    assert (engine.upscale(plain, nodata=0)[~made.mask] == made.data[~made.mask]).mean() > 0.999


def test_bands_have_masks_of_their_own(engine: Engine) -> None:
    image = masked((40, 50, 5), np.s_[10:14, 20:30, 2])
    made = engine.upscale(image)
    assert (made.mask == image.mask.repeat(2, 0).repeat(2, 1)).all()
    assert (made.data[..., :2] == engine.upscale(image.data)[..., :2]).all()
    planes = np.ma.MaskedArray(planar(image.data), planar(image.mask))
    again = engine.upscale(planes, layout="CHW")
    assert (again.mask == planar(made.mask)).all() and (again.data == planar(made.data)).all()


def test_one_masked_sample_of_rgb_takes_its_pixel_out(engine: Engine) -> None:
    image = masked((40, 50, 3), np.s_[12, 25, 0])
    other = image.copy()
    other.data[12, 25] = 0
    assert (engine.upscale(image).data[~_pixel()] == engine.upscale(other).data[~_pixel()]).all()


def _pixel() -> np.ndarray:
    found = np.zeros((80, 100), np.bool_)
    found[24:26, 50:52] = True
    return found


def test_a_mask_without_a_hole_changes_nothing(engine: Engine) -> None:
    made = engine.upscale(np.ma.MaskedArray(RGB))
    assert not made.mask.any() and (made.data == engine.upscale(RGB)).all()


def test_masked_arrays_go_into_masked_arrays(engine: Engine) -> None:
    image = masked((40, 50, 3), np.s_[10:14, 20:30])
    target = np.ma.MaskedArray(np.zeros((80, 100, 3), np.uint16))
    engine.upscale_into(image, target)
    made = engine.upscale(image)
    assert (target.mask == made.mask).all() and (target.data == made.data).all()
    with pytest.raises(ArgumentError, match="cannot hold the image's mask"):
        engine.upscale_into(image, np.zeros((80, 100, 3), np.uint16))


def test_parts_of_masked_arrays_are_masked(engine: Engine) -> None:
    image = masked((40, 50, 3), np.s_[10:14, 20:30])
    made = engine.upscale(image)
    for window, part in engine.stream(image, region=np.s_[5:25, 15:45]):
        y, x = (slice(w.start + 2 * o, w.stop + 2 * o) for w, o in zip(window, (5, 15), strict=True))
        assert isinstance(part, np.ma.MaskedArray) and (part.mask == made.mask[y, x]).all()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("uint8", 256),
        ("uint8", -1),
        ("uint8", 1.5),
        ("int16", 40000),
        ("uint16", float("nan")),
        ("float16", 1e6),
    ],
)
def test_nodata_that_no_sample_can_have_is_refused(engine: Engine, dtype: str, value: float) -> None:
    image = np.zeros((9, 9), dtype)
    with pytest.raises(ArgumentError, match=f"nodata must be a value that its samples can have, {dtype}"):
        engine.upscale(image, nodata=value)
    with pytest.raises(ArgumentError, match="nodata must be a value"):
        engine.upscale_into(image, np.zeros((18, 18), dtype), nodata=value)
    with pytest.raises(ArgumentError, match="nodata must be a value"):
        engine.stream(image, nodata=value)


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint8", 255), ("int16", -9999), ("float32", -3.4028235e38), ("float32", np.inf)]
)
def test_nodata_that_a_sample_can_have_is_taken(engine: Engine, dtype: str, value: float) -> None:
    image = np.full((9, 9), value, dtype)
    assert (engine.upscale(image, nodata=value) == image.repeat(2, 0).repeat(2, 1)).all()
