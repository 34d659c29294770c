"""GPU rendering on simulated GPUs: results, slots, several GPUs, faults and memory."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from srcnn_rt import ArgumentError, Engine, OutOfMemoryError, ProviderError
from srcnn_rt.backends.onnxruntime import create
from srcnn_rt.errors import DeviceError, RangeError
from srcnn_rt.image.info import Layout
from srcnn_rt.models import prepare, spec
from srcnn_rt.models.image_graph import build_image_graph
from srcnn_rt.models.low_precision import float16
from srcnn_rt.models.optimize.node_builder import round_to_tf32
from srcnn_rt.models.optimize.tensor_core_cost import largest_activation
from srcnn_rt.options import parse_devices, parse_memory
from srcnn_rt.tiling import kernels
from tests.conftest import TEST_MODEL
from tests.helpers import models
from tests.helpers.devices import HostGpu, gpus

__all__ = ["gpus"]


FORMS = [TEST_MODEL, f"{TEST_MODEL}-paper"]


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    values = rng.random(shape, np.float32)
    return values if dtype == "float32" else (values * np.iinfo(dtype).max).astype(dtype)


def agree(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    if a.dtype.kind == "f":
        # With an alpha near 0, colour is a quotient of any size.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        return
    difference = np.abs(a.astype(np.int64) - b.astype(np.int64))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= (1e-3 if a.dtype == np.uint8 else 1e-2)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4, 5])
def test_a_gpu_gives_the_image_of_the_cpu(
    gpus: list[HostGpu], rng: np.random.Generator, channels: int, dtype: str, name: str
) -> None:
    image = drawn(rng, (70, 90, channels) if channels else (70, 90), dtype)
    with Engine(name, provider="cuda", tile=32) as gpu, Engine(name, provider="cpu", tile=32) as cpu:
        assert (gpu.provider, cpu.provider) == ("cuda", "cpu")
        agree(gpu.upscale(image), cpu.upscale(image))
    sent = {what for what, _ in gpus[0].log}
    assert sent == {"copy_to_device", "compute", "copy_to_host", "synchronize"}


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (129, 64)])
@pytest.mark.parametrize("tile", [8, 37, 512])
def test_sizes_and_tiles(gpus: list[HostGpu], rng: np.random.Generator, shape: Any, tile: int) -> None:
    image = drawn(rng, (*shape, 3), "uint8")
    with (
        Engine("bicubic-x3", provider="cuda", tile=tile) as gpu,
        Engine("bicubic-x3", provider="cpu", tile=tile) as cpu,
    ):
        agree(gpu.upscale(image), cpu.upscale(image))


def test_whole_numbers_are_the_same_bit_for_bit(
    gpus: list[HostGpu], rng: np.random.Generator, integer_model: Any
) -> None:
    path, _ = integer_model(2, (9, 1, 5))
    image = rng.integers(0, 4, (90, 70)).astype(np.float32)
    with Engine(path, provider="cpu", tile=512, data_range="dtype") as cpu:
        expected = cpu.upscale(image)
    for tile in (16, 31, 64):
        with Engine(path, provider="cuda", tile=tile, device=(0, 1), data_range="dtype") as gpu:
            np.testing.assert_array_equal(gpu.upscale(image), expected)


def test_slots_overlap_and_are_kept(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    image = drawn(rng, (400, 400, 3), "uint8")
    with Engine(provider="cuda", tile=64) as engine:
        engine.upscale(image)
        used = len(gpus[0].options)
        assert used == 4  # sessions: three slots, and one for the check of float32
        engine.upscale(image)
        assert len(gpus[0].options) == used
    streams = {stream for what, stream in gpus[0].log if what == "compute"}
    assert len(streams) >= 2


@pytest.mark.parametrize("closed", [True, False])
def test_streams_go_after_what_uses_them(gpus: list[HostGpu], rng: np.random.Generator, closed: bool) -> None:
    """The simulated GPU checks the order; an engine that was not closed releases its memory, too."""
    engine = Engine(provider="cuda", tile=64)
    engine.upscale(drawn(rng, (200, 200, 3), "uint8"))
    engine.upscale(torch.from_numpy(drawn(rng, (200, 200, 3), "uint8")))
    if closed:
        engine.close()
        engine.close()
    del engine
    gc.collect()
    assert gpus[0].streams == 0
    assert gpus[0].used == 0


def test_the_options_of_a_session(gpus: list[HostGpu]) -> None:
    with Engine(provider="cuda", gpu_memory="3GB"):
        options = gpus[0].options[0]
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["use_tf32"] == "0"
    assert options["prefer_nhwc"] == "1"
    assert options["gpu_mem_limit"] == str(10**9)  # per slot, of three


def test_nothing_is_taken_from_a_run_before(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    """Partly filled batches and other shapes leave stale samples in the buffers."""
    with Engine(provider="cuda", tile=32) as gpu, Engine(provider="cpu", tile=32) as cpu:
        for shape in [(200, 200, 3), (33, 70, 3), (200, 130, 3), (20, 20, 3)]:
            image = drawn(rng, shape, "uint8")
            agree(gpu.upscale(image), cpu.upscale(image))


def test_files_go_through_a_gpu(gpus: list[HostGpu], rng: np.random.Generator, tmp_path: Path) -> None:
    import tifffile

    image = drawn(rng, (300, 500, 3), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    for provider in ("cuda", "cpu"):
        with Engine(provider=provider, tile=64) as engine:
            report = engine.upscale_file(tmp_path / "a.tif", tmp_path / f"{provider}.tif")
            assert report.provider == provider
    agree(tifffile.imread(tmp_path / "cuda.tif"), tifffile.imread(tmp_path / "cpu.tif"))


# Several GPUs


def test_two_gpus_share_the_work(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    image = drawn(rng, (600, 600), "uint8")
    with Engine(provider="cuda", tile=64, device="0,1") as two, Engine(provider="cpu", tile=64) as cpu:
        agree(two.upscale(image), cpu.upscale(image))
    assert gpus[0].computed > 0
    assert gpus[1].computed > 0


@pytest.mark.parametrize("breaks", [0, 3])
def test_the_windows_of_a_gpu_that_fails_go_to_the_other(
    gpus: list[HostGpu], rng: np.random.Generator, breaks: int, caplog: pytest.LogCaptureFixture
) -> None:
    gpus[1].breaks = breaks
    image = drawn(rng, (600, 600), "uint8")
    with Engine(provider="cuda", tile=64, device=[0, 1]) as two, Engine(provider="cpu", tile=64) as cpu:
        expected = cpu.upscale(image)
        agree(two.upscale(image), expected)
        before = gpus[1].computed
        agree(two.upscale(image), expected)
        assert gpus[1].computed == before  # it gets no more windows
    failures = [r.getMessage() for r in caplog.records if "GPU 1 failed" in r.message]
    assert len(failures) == 1 and "unspecified launch failure" in failures[0]


def test_all_gpus_fail(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    gpus[0].breaks = gpus[1].breaks = 2
    image = drawn(rng, (600, 600), "uint8")
    with Engine(provider="cuda", tile=64, device=(0, 1)) as engine:
        for _ in range(2):
            with pytest.raises(DeviceError, match="unspecified launch failure"):
                engine.upscale(image)


def test_a_gpu_that_failed_between_images_is_left_out(
    gpus: list[HostGpu], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure shows when buffers are allocated, before any window is computed."""
    image = drawn(rng, (600, 600), "uint8")
    with Engine(provider="cuda", tile=64, device=(0, 1)) as two, Engine(provider="cpu", tile=64) as cpu:

        def refuse(size: int) -> Any:
            raise DeviceError("CUDA device 1: unspecified launch failure")

        monkeypatch.setattr(gpus[1], "allocate", refuse)
        for _ in range(2):
            agree(two.upscale(image), cpu.upscale(image))
        assert two._setup.networks[1].failed is not None  # type: ignore[union-attr]


def test_a_job_whose_gpu_failed_can_be_resumed(
    gpus: list[HostGpu], rng: np.random.Generator, tmp_path: Path
) -> None:
    import tifffile

    image = drawn(rng, (900, 1500), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", image)
    gpus[0].breaks = 12
    with Engine(provider="cuda", tile=64) as engine, pytest.raises(DeviceError):
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    assert not (tmp_path / "b.tif").exists()
    gpus[0].breaks = float("inf")
    with Engine(provider="cuda", tile=64) as engine, Engine(provider="cpu", tile=64) as cpu:
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif", resume=True)
        agree(tifffile.imread(tmp_path / "b.tif"), cpu.upscale(image))


# Memory


def test_first_the_batch_then_the_window_halves(
    gpus: list[HostGpu], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srcnn_rt.backends.cuda import renderer

    seen: list[tuple[int, int]] = []
    made = renderer.WindowRenderer.__init__

    def noted(this: Any, setup: Any, network: Any, info: Any, plan: Any, batch: int) -> None:
        seen.append((batch, plan.tile[0]))
        made(this, setup, network, info, plan, batch)

    monkeypatch.setattr(renderer.WindowRenderer, "__init__", noted)
    gpus[0].maximum = 60_000
    image = drawn(rng, (256, 256), "uint8")
    with Engine(provider="cuda", tile=64) as engine, Engine(provider="cpu", tile=64) as cpu:
        agree(engine.upscale(image), cpu.upscale(image))
    batches = [b for b, side in seen if side == 64]
    assert batches[0] > 1
    assert sorted(set(batches), reverse=True) == list(dict.fromkeys(batches))
    assert 1 in batches
    assert {b for b, side in seen if side < 64} == {1}


def test_nothing_of_the_larger_windows_is_kept(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    gpus[0].maximum = 60_000
    with Engine(provider="cuda", tile=64) as engine:
        engine.upscale(drawn(rng, (256, 256), "uint8"))
        assert gpus[0].used <= gpus[0].maximum


def test_a_gpu_without_memory(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    gpus[0].maximum = 100
    with (
        Engine(provider="cuda", tile=64) as engine,
        pytest.raises(OutOfMemoryError, match="the smallest possible: CUDA device 0: out of memory"),
    ):
        engine.upscale(drawn(rng, (64, 64), "uint8"))


def test_memory_that_fails_midway_keeps_what_is_done(
    gpus: list[HostGpu], rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srcnn_rt.backends.cuda import streams

    real, calls = streams.StreamSlot.run, []

    def run(this: Any) -> None:
        calls.append(1)
        if len(calls) == 9:
            raise OutOfMemoryError("Failed to allocate memory for requested buffer")
        real(this)

    monkeypatch.setattr(streams.StreamSlot, "run", run)
    import tifffile

    image = drawn(rng, (900, 1500), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", image)
    with Engine(provider="cuda", tile=64) as engine, Engine(provider="cpu", tile=64) as cpu:
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
        agree(tifffile.imread(tmp_path / "b.tif"), cpu.upscale(image))


def test_the_cache_is_emptied_first(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    """Before batches or windows are halved."""
    with Engine(provider="cuda", tile=64) as engine:
        engine.upscale(drawn(rng, (256, 256), "uint8"))
        computed = gpus[0].computed
        gpus[0].maximum = 2 * gpus[0].used + 1000
        engine.upscale(drawn(rng, (256, 256), "uint16"))  # another type with twice the bytes
        assert gpus[0].computed == 2 * computed


def test_runs_of_too_many_samples_are_halved(
    gpus: list[HostGpu], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srcnn_rt.backends.cuda import streams

    image = drawn(rng, (256, 256), "uint8")
    with Engine(provider="cuda", tile=64) as engine, Engine(provider="cpu", tile=64) as cpu:
        monkeypatch.setattr(streams, "_MAX_SAMPLES", 40 * 64 * 128 * 128)
        agree(engine.upscale(image), cpu.upscale(image))


@pytest.mark.parametrize("name", ["srcnn-915-x2", "srcnn-955-x3", "srcnn-955-deblur-x1"])
def test_the_widest_layer(name: str) -> None:
    data, _ = spec.load(name)
    assert largest_activation(spec.parse(data)) == pytest.approx(64, rel=0.3)


# In TF32


@pytest.mark.parametrize("layout", [Layout.of(3), Layout.of(4), Layout.of(2)])
def test_what_stays_in_float32_bears_tf32(layout: Layout, rng: np.random.Generator) -> None:
    """TF32 rounding of the convolutions around a float16 network must not change the result visibly."""
    data, described = spec.load("srcnn-915-x2")
    ready = prepare.build_program(data, described)
    window = rng.integers(0, 65536, (1, 50, 50, layout.channels)).astype(np.uint16)
    results = {}
    for split in (False, True):
        graph = build_image_graph(spec.parse(ready.data), ready.spec, layout, window.dtype, split=split)
        for rounded in (False, True):
            made = in_tf32(graph) if rounded else graph
            session = create(made.SerializeToString(), ["CPUExecutionProvider"], 1)
            results[split, rounded] = session.run(None, {"image": window})[0].astype(np.int64)
    exact = results[False, False]
    assert np.abs(results[True, False] - exact).max() <= 1
    assert np.abs(results[True, True] - exact).max() <= 1
    assert np.abs(results[False, True] - exact).max() > 3  # the difference that splitting avoids


def in_tf32(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the inputs and weights of the image path's convolutions rounded to TF32."""
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    large = numpy_helper.from_array(np.float32(2**13 + 1), "veltkamp")
    made.graph.initializer.append(large)
    weights = {t.name: t for t in made.graph.initializer}
    nodes = []
    for node in graph.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "Conv" and node.name.startswith("pixels"):
            x, w = node.input[:2]
            nodes += [
                helper.make_node("Mul", [x, "veltkamp"], [f"{node.name}.l"]),
                helper.make_node("Sub", [f"{node.name}.l", x], [f"{node.name}.d"]),
                helper.make_node("Sub", [f"{node.name}.l", f"{node.name}.d"], [f"{node.name}.h"]),
            ]
            copy.input[0] = f"{node.name}.h"
            rounded = round_to_tf32(numpy_helper.to_array(weights[w]))
            weights[w].CopyFrom(numpy_helper.from_array(rounded, w))
        nodes.append(copy)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def test_exact_is_checked(gpus: list[HostGpu], monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime may use TF32 although it is disabled."""
    from srcnn_rt.backends.cuda import streams

    real = streams.GpuNetwork.runner

    @contextmanager
    def runner(this: Any) -> Any:
        with real(this) as run:
            yield lambda windows: run(round_to_tf32(windows))

    monkeypatch.setattr(streams.GpuNetwork, "runner", runner)
    with pytest.raises(
        ProviderError, match=r"the GPU does not compute precision exact: its error is \d\.\de-0\d"
    ):
        Engine(provider="cuda")
    Engine(provider="cuda", precision="fast")


# Arrays of other libraries


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(70, 90), (70, 90, 1), (70, 90, 3), (70, 90, 4)])
def test_a_tensor_on_the_gpu_never_leaves_it(
    gpus: list[HostGpu], rng: np.random.Generator, shape: tuple[int, ...], dtype: str, name: str
) -> None:
    image = drawn(rng, shape, dtype)
    with Engine(name, provider="cuda", tile=32) as gpu, Engine(name, provider="cpu", tile=32) as cpu:
        made = gpu.upscale(torch.from_numpy(image))
        assert isinstance(made, torch.Tensor)
        agree(made.numpy(), cpu.upscale(image))
    # Only row and column indices are copied to the device.
    assert {what for what, _ in gpus[0].log} == {"copy_to_device", "compute", "copy_2d", "synchronize"}


def test_a_range_of_a_tensor_on_the_gpu_is_not_ignored(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    """Samples are not mapped there: a range other than that of the type is refused if the model needs one."""
    image = torch.from_numpy(drawn(rng, (50, 60), "float32"))
    kelvins = 270 + 40 * image
    plain, paper = FORMS
    with Engine(paper, provider="cuda", tile=32) as gpu, Engine(paper, provider="cpu", tile=32) as cpu:
        with pytest.raises(RangeError, match="this model takes images on a GPU from 0 to 1, not from 270 to"):
            gpu.upscale(kelvins, data_range=(270, 310))
        for asked in ("auto", "dtype", (0, 1)):
            made = gpu.upscale(image, data_range=asked).numpy()
            agree(made, cpu.upscale(image.numpy(), data_range=asked))
        there = gpu.upscale(kelvins.numpy(), data_range=(270, 310))
        agree(there, cpu.upscale(kelvins.numpy(), data_range=(270, 310)))
    with Engine(plain, provider="cuda", tile=32) as gpu:
        assert torch.equal(gpu.upscale(kelvins, data_range=(270, 310)), gpu.upscale(kelvins))


def test_a_tensor_that_is_transposed_or_sliced(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    """Most torch tensors are channels-first."""
    planes = torch.from_numpy(drawn(rng, (3, 80, 100), "uint8"))
    with Engine(provider="cuda", tile=32) as gpu, Engine(provider="cpu", tile=32) as cpu:
        for view in (planes.permute(1, 2, 0), planes.permute(2, 1, 0), planes.permute(1, 2, 0)[10:60, 5:-5]):
            agree(gpu.upscale(view).numpy(), cpu.upscale(np.ascontiguousarray(view.numpy())))
    assert "copy_2d" in {what for what, _ in gpus[0].log}


def test_a_tensor_uses_the_gpu_that_holds_it(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    with Engine(provider="cuda", tile=32, device=(1, 0)) as engine:
        engine.upscale(torch.from_numpy(drawn(rng, (200, 200), "uint8")))
    assert gpus[0].computed > 0
    assert gpus[1].computed == 0


def test_a_tensor_in_host_memory(rng: np.random.Generator) -> None:
    image = drawn(rng, (50, 60, 3), "uint8")
    with Engine(provider="cpu") as engine:
        made = engine.upscale(torch.from_numpy(image))
        assert isinstance(made, torch.Tensor)
        np.testing.assert_array_equal(made.numpy(), engine.upscale(image))
        turned = torch.from_numpy(image).permute(1, 0, 2)
        np.testing.assert_array_equal(engine.upscale(turned).numpy(), engine.upscale(turned.numpy()))


class Elsewhere:
    """An array on a GPU of no engine."""

    shape = (4, 4)

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise AssertionError("must not be called")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 7)

    def __array_namespace__(self) -> Any:
        return np


def test_bad_tensors_are_one_line(gpus: list[HostGpu]) -> None:
    with Engine(provider="cuda") as engine:
        with pytest.raises(ArgumentError, match="is on device 7 of DLPack device type 2"):
            engine.upscale(Elsewhere())
        with pytest.raises(ArgumentError, match="uint8, uint16 or float32, got tensor"):
            engine.upscale(torch.zeros(8, 8, dtype=torch.int32))
        with pytest.raises(ArgumentError, match="not empty"):
            engine.upscale(torch.zeros(8, 0, dtype=torch.uint8))
        with pytest.raises(ArgumentError, match="without a gradient"):
            engine.upscale(torch.zeros(8, 8, requires_grad=True))
        with pytest.raises(ArgumentError, match="nodata"):
            engine.upscale(torch.zeros(8, 8, dtype=torch.uint8), nodata=0)
    with Engine(provider="cpu") as engine, pytest.raises(ArgumentError, match="is on device 7"):
        engine.upscale(Elsewhere())


# Windows


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    start=st.tuples(st.integers(-90, 60), st.integers(-90, 60)),
    window=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
@settings(max_examples=80, deadline=None)
def test_mirrored_places(size: Any, start: Any, window: Any) -> None:
    image = np.arange(size[0] * size[1]).reshape(size)
    rows, columns = (kernels.mirrored(s, w, n) for s, w, n in zip(start, window, size, strict=True))
    before = [max(0, -s) for s in start]
    after = [max(0, s + w - n) for s, w, n in zip(start, window, size, strict=True)]
    padded = np.pad(image, list(zip(before, after, strict=True)), mode="symmetric")
    expected = padded[tuple(np.s_[s + b : s + b + w] for s, b, w in zip(start, before, window, strict=True))]
    np.testing.assert_array_equal(image[rows[:, None], columns], expected)


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", (0,)), ("0,1", (0, 1)), (2, (2,)), ([1, 3], (1, 3)), ("3, 1", (3, 1))]
)
def test_devices(text: Any, numbers: tuple[int, ...]) -> None:
    assert parse_devices(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "0,0", "-1", (), True, [0.5], "0;1"])
def test_bad_devices(text: Any) -> None:
    with pytest.raises(
        ArgumentError, match="devices must be different indices of GPUs, such as 0 or 0,1, got"
    ):
        parse_devices(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), (10**9, 10**9), ("2gb", 2 * 10**9)],
)
def test_memory_sizes(text: Any, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "x", "8TB", "64MB", "-1GB", "nanGB", "infGB", "GB"])
def test_bad_memory_sizes(text: str) -> None:
    with pytest.raises(ArgumentError, match="above 64 MB"):
        parse_memory(text)


# Graphs, and float16


def test_fast_is_float16_on_a_gpu(gpus: list[HostGpu], rng: np.random.Generator) -> None:
    image = drawn(rng, (120, 130, 3), "uint8")
    for model in ("srcnn-915-x2", "srcnn-955-x2"):
        with (
            Engine(model, provider="cuda", tile=64, precision="fast") as fast,
            Engine(model, provider="cpu", tile=64) as exact,
        ):
            assert fast.precision == "fast"
            a, b = fast.upscale(image).astype(int), exact.upscale(image).astype(int)
        assert np.abs(a - b).max() <= 2
        assert (a != b).mean() < 0.2


def test_fast_is_refused_where_it_loses(gpus: list[HostGpu], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float16, "LIMIT_DB", -0.01)
    with pytest.raises(ProviderError, match=r"srcnn-955-x2 would lose about 0\.00 dB in float16, -0\.01 are"):
        Engine("srcnn-955-x2", provider="cuda", precision="fast")


def test_fast_is_refused_where_there_is_nothing_to_gain(gpus: list[HostGpu], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Concat", ["lr"] * 4, ["four"], axis=1),
        helper.make_node("DepthToSpace", ["four"], ["hr"], blocksize=2),
    ]
    path = models.save(tmp_path / "nearest.onnx", nodes, {})
    with pytest.raises(ProviderError, match="no layer of the model can compute in float16"):
        Engine(path, provider="cuda", precision="fast")


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_tune_tries_graphs_streams_and_tiles(
    gpus: list[HostGpu], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str
) -> None:
    from srcnn_rt.execution import autotune

    monkeypatch.setenv("SRCNN_RT_CACHE", str(tmp_path))
    monkeypatch.setattr(autotune, "GPU_TRIAL_HR", 64)
    monkeypatch.setattr(autotune, "GPU_TILES_HR", (48, 64))
    monkeypatch.setattr(autotune, "TRIAL_ROUNDS", 1)
    monkeypatch.setattr("srcnn_rt.execution.autotune.GPU_TILE_HR", 32)
    with Engine("srcnn-915-x2", provider="cuda", tile="auto", precision=precision) as engine:
        found = engine.tune()
        best = found[-1]
        image = np.arange(3600, dtype=np.uint16).reshape(60, 60) * 18
        expected = engine.upscale(image)
    assert len({trial.variant for trial in found}) >= 5
    assert {trial.workers for trial in found} == {1, 2, 3, 4}
    assert len({trial.tile for trial in found}) == 3
    with Engine("srcnn-915-x2", provider="cuda", tile="auto", precision=precision) as again:
        setup = again._setup
        assert (setup.tile, setup.workers, setup.variant) == (best.tile, best.workers, best.variant)
        np.testing.assert_array_equal(again.upscale(image), expected)
