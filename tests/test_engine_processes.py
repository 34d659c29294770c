"""An engine works on in a forked child, and is opened again where it is unpickled."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srcnn_rt import (
    ArgumentError,
    ClosedError,
    Engine,
    ModelError,
    ProviderError,
    SourceMissingError,
    open_image,
)
from srcnn_rt._system import forking
from srcnn_rt._system.forking import NoForkWithin
from srcnn_rt.backends import openvino
from srcnn_rt.tiling.geometry import Span
from tests.conftest import TEST_MODEL, drawing
from tests.helpers import models
from tests.helpers.devices import HostGpu, gpus
from tests.helpers.processes import in_forked_child, run_script
from tests.helpers.reference import quantise

__all__ = ["gpus"]

# Python 3.12 warns of what this is about.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)

IMAGE = quantise(drawing(40, 50), np.uint8)
PROVIDERS = [
    "cpu",
    "native",
    pytest.param(
        "openvino", marks=pytest.mark.skipif(bool(openvino.missing(bfloat16=False)), reason="no OpenVINO")
    ),
]


@pytest.fixture(params=PROVIDERS)
def used(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine with two threads that has upscaled an image."""
    with Engine(TEST_MODEL, provider=request.param, tile=16, threads=2) as engine:
        engine.upscale(IMAGE)
        yield engine


# After a fork


def test_a_child_upscales_with_an_engine_that_was_used(used: Engine) -> None:
    expected = used.upscale(IMAGE)

    def in_child() -> Any:
        # The grandchild inherits what the child has opened again.
        return used.upscale(IMAGE), in_forked_child(lambda: used.upscale(IMAGE)), used.provider, used.tile

    own, grandchild, provider, tile = in_forked_child(in_child)
    assert (own == expected).all() and (grandchild == expected).all()
    assert (provider, tile) == (used.provider, used.tile)
    assert (used.upscale(IMAGE) == expected).all()  # the parent's is as it was


def test_a_child_forked_while_other_threads_upscale(used: Engine) -> None:
    expected, stop, errors = used.upscale(IMAGE), threading.Event(), []

    def busy() -> None:
        while not stop.is_set():
            if not (used.upscale(IMAGE) == expected).all():
                errors.append("another image")

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            assert (in_forked_child(lambda: used.upscale(IMAGE)) == expected).all()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors


def test_a_child_that_tunes_waits_for_no_thread_of_its_parent(used: Engine) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with used._running.get().tuning:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_forked_child(lambda: used._running.get().tuning.acquire(timeout=5)) is True
    finally:
        release.set()
        thread.join()


def test_a_child_may_close_what_it_inherited(used: Engine) -> None:
    def in_child() -> str:
        used.close()
        with pytest.raises(ClosedError, match="closed"):
            used.upscale(IMAGE)
        return repr(used)

    assert in_forked_child(in_child).endswith(", closed>")
    assert used.upscale(IMAGE).shape == (80, 100, 3)


def test_an_engine_that_is_closed_stays_closed_in_a_child() -> None:
    engine = Engine(TEST_MODEL, provider="cpu")
    engine.close()

    def in_child() -> None:
        with pytest.raises(ClosedError, match="closed"):
            engine.upscale(IMAGE)

    in_forked_child(in_child)


def test_a_child_of_a_process_with_cuda_is_told_at_once(gpus: list[HostGpu]) -> None:
    with Engine(TEST_MODEL, provider="cuda", tile=32) as engine:
        engine.upscale(IMAGE)

        def in_child() -> str:
            with pytest.raises(ProviderError) as caught:
                engine.upscale(IMAGE)
            return str(caught.value)

        assert "CUDA cannot be used in a process that was forked" in in_forked_child(in_child)
        assert engine.upscale(IMAGE).shape == (80, 100, 3)


EXIT = """
import os, sys
import numpy as np
from srcnn_rt import ClosedError, Engine
engine = Engine(sys.argv[1], provider=sys.argv[2], threads=2)
image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
expected = engine.upscale(image)
stream = engine.stream(np.tile(image, (16, 20)))
next(stream)
for child_upscales in (False, True):
    child = os.fork()
    if child == 0:
        if child_upscales:
            assert (engine.upscale(image) == expected).all()
            try:
                next(stream)
            except ClosedError as error:
                print(error, flush=True)
        sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
assert len(list(stream)) > 1
"""


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_child_exits_as_any_process_does(provider: str) -> None:
    """Not by os._exit, as multiprocessing does: every destructor runs, and that of an open stream."""
    printed = run_script(EXIT, TEST_MODEL, provider).splitlines()
    assert printed == ["7", "the run was begun in the process from which this one was forked", "7"]


def test_importing_the_runtime_leaves_the_environment_as_it_was() -> None:
    code = (
        "import os\n"
        "before = dict(os.environ)\n"
        "from srcnn_rt import Engine\n"
        "Engine(provider='cpu').close()\n"
        "print(dict(os.environ) == before)\n"
    )
    assert run_script(code) == "True\n"


def test_engines_that_are_gone_are_not_remembered() -> None:
    gc.collect()
    before = len(forking._all)
    engines = [Engine("bicubic-x2", provider="cpu", threads=1) for _ in range(5)]
    references = [weakref.ref(engine) for engine in engines]
    engines[0].close()
    engines.clear()
    assert [reference() for reference in references] == [None] * 5  # without a collection of cycles
    assert len(forking._all) == before


def test_an_open_image_has_a_file_position_for_each_process(tmp_path: Path) -> None:
    import tifffile

    large = quantise(drawing(600, 400), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", large, rowsperstrip=1)
    with open_image(tmp_path / "a.tif") as image:

        def rows(k: int) -> np.ndarray:
            return image.read(Span(k, k + 7), Span(0, 400))

        def in_child() -> bool:
            return all((rows(k) == large[k : k + 7]).all() for _ in range(4) for k in range(0, 590, 7))

        def both() -> tuple[bool, bool]:
            with ThreadPoolExecutor(2) as pool:
                return tuple(pool.map(lambda call: call(), [lambda: in_forked_child(in_child), in_child]))

        assert rows(3).shape == (7, 400, 3)
        assert both() == (True, True)

        def closed() -> None:
            image.close()
            with pytest.raises(ClosedError, match="the image is closed"):
                rows(0)

        in_forked_child(closed)
        assert in_child()


@pytest.mark.parametrize("kind", [str, Path, Path.read_bytes])
def test_an_open_image_goes_to_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], Any]
) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", IMAGE[..., 0], photometric="minisblack")
    monkeypatch.chdir(tmp_path)
    whole = Span(0, 40), Span(0, 50)
    with open_image(kind(Path("a.tif")), classes=True) as image:
        pickled = pickle.dumps(image)
        assert (in_forked_child(lambda: image.read(*whole)) == image.read(*whole)).all()
    monkeypatch.chdir("/")
    with pickle.loads(pickled) as again:
        assert again.info == image.info
        assert (again.read(*whole)[..., 0] == IMAGE[..., 0]).all()
    with pytest.raises(ClosedError):
        pickle.dumps(image)
    with (
        (tmp_path / "a.tif").open("rb") as file,
        open_image(file) as other,
        pytest.raises(ArgumentError, match="only an image opened by its path, URL or bytes"),
    ):
        pickle.dumps(other)


# What a forked child gets of its own


class Fragile:
    """Counts how often it is made, and notes in which process it was released."""

    made = 0
    released: list[int] = []  # noqa: RUF012 (of all)

    def __init__(self) -> None:
        Fragile.made += 1

    def __del__(self) -> None:
        Fragile.released.append(id(self))


def test_a_value_is_made_again_once_and_the_inherited_one_is_never_released() -> None:
    value = forking.PerProcess(Fragile(), lambda inherited: Fragile())

    def in_child() -> tuple[int, list[int]]:
        made = Fragile.made
        seen: list[Fragile] = []
        threads = [threading.Thread(target=lambda: seen.append(value.get())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, seen))) == 1
        Fragile.released.clear()
        seen.clear()
        own = id(value.get())
        value.take()
        gc.collect()
        return Fragile.made - made, [k - own for k in Fragile.released]

    assert in_forked_child(in_child) == (1, [0])


def test_a_value_that_cannot_be_made_again_is_asked_for_again() -> None:
    tries: list[int] = []

    def again(inherited: int) -> int:
        tries.append(inherited)
        if len(tries) < 2:
            raise ProviderError("not yet")
        return inherited + 1

    value = forking.PerProcess(1, again)

    def in_child() -> tuple[int, list[int]]:
        with pytest.raises(ProviderError):
            value.get()
        return value.get(), tries

    assert in_forked_child(in_child) == (2, [1, 1])
    assert value.get() == 1
    assert value.take() == 1 and value.take() is None
    with pytest.raises(LookupError):
        value.get()


# Pickled


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, integer_model: Callable[..., Any]) -> Path:
    return integer_model(2)[0]


def test_an_engine_is_opened_again_with_its_arguments() -> None:
    options = {"tile": 24, "threads": 1, "provider": "cpu", "data_range": (10, 200)}
    with Engine(f"{TEST_MODEL}-paper", **options) as engine, pickle.loads(pickle.dumps(engine)) as again:
        assert again is not engine and repr(again) == repr(engine)
        assert (again.upscale(IMAGE) == engine.upscale(IMAGE)).all()
        assert again.job("a.tif", "b.tif").identity == engine.job("a.tif", "b.tif").identity


def test_a_copy_is_an_engine_of_its_own() -> None:
    with Engine(TEST_MODEL, provider="cpu") as engine:
        for copied in (copy.copy(engine), copy.deepcopy(engine)):
            copied.close()
        assert engine.upscale(IMAGE).shape == (80, 100, 3)


def test_a_path_is_absolute_and_its_content_must_be_the_same(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(path.read_bytes())
    with Engine("m.onnx", provider="cpu", data_range="dtype") as engine:
        pickled = pickle.dumps(engine)
    monkeypatch.chdir("/")
    pickle.loads(pickled).close()
    (tmp_path / "m.onnx").write_bytes(Path(models.__file__).read_bytes())
    with pytest.raises(ModelError, match=r"m\.onnx"):
        pickle.loads(pickled)
    with Engine("bicubic-x2", provider="cpu") as other:
        (tmp_path / "m.onnx").write_bytes(other._loader.file.data)
    with pytest.raises(ModelError, match=r"m\.onnx: its content .* is not that of the pickled engine"):
        pickle.loads(pickled)
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(SourceMissingError, match=r"m\.onnx"):
        pickle.loads(pickled)


def test_bytes_go_with_the_pickle(path: Path) -> None:
    data = path.read_bytes()
    with Engine(data, provider="cpu", data_range="dtype", tile=16) as engine:
        pickled = pickle.dumps(engine)
        assert len(data) < len(pickled) < len(data) + 2000
        with pickle.loads(pickled) as again:
            assert (again.upscale(IMAGE) == engine.upscale(IMAGE)).all()


def test_a_closed_engine_cannot_be_pickled() -> None:
    engine = Engine(TEST_MODEL, provider="cpu")
    engine.close()
    with pytest.raises(ClosedError, match="closed"):
        pickle.dumps(engine)


def test_a_derived_class_stays_what_it_is() -> None:
    with Derived(TEST_MODEL, provider="cpu") as engine, pickle.loads(pickle.dumps(engine)) as again:
        assert type(again) is Derived


class Derived(Engine):
    """Somebody's own engine."""


# By the libraries that start processes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes(method: str) -> None:
    images = [IMAGE, IMAGE[::-1].copy()]
    with Engine(TEST_MODEL, provider="cpu", tile=16, threads=1) as engine:
        expected = [engine.upscale(image) for image in images]
        with multiprocessing.get_context(method).Pool(1) as pool:
            made = pool.map(engine.upscale, images)
        assert all((a == b).all() for a, b in zip(made, expected, strict=True))


def test_joblib_and_cloudpickle() -> None:
    joblib = pytest.importorskip("joblib")
    cloudpickle = pytest.importorskip("cloudpickle")
    images = [IMAGE, IMAGE[::-1].copy()]
    with Engine(TEST_MODEL, provider="cpu", tile=16, threads=1) as engine:
        expected = [engine.upscale(image) for image in images]
        made = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(engine.upscale)(i) for i in images)
        assert all((a == b).all() for a, b in zip(made, expected, strict=True))
        closure = cloudpickle.loads(cloudpickle.dumps(lambda: engine.upscale(images[0])))
        assert (closure() == expected[0]).all()
        assert joblib.hash(engine) == joblib.hash(engine)


class Enlarged:
    """A dataset of torch whose samples an engine enlarges."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> np.ndarray:
        return self.engine.upscale(np.roll(IMAGE, index, axis=1))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method: str) -> None:
    data = pytest.importorskip("torch.utils.data", reason="the extra 'train' is not installed")
    with Engine(TEST_MODEL, provider="cpu", tile=16, threads=1) as engine:
        dataset = Enlarged(engine)
        expected = [dataset[k] for k in range(3)]
        loader = data.DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context=method)
        (batch,) = loader
        assert (batch.numpy() == np.stack(expected)).all()


def test_a_fork_waits_for_calls_that_must_not_be_copied() -> None:
    calling, ended = NoForkWithin(), threading.Event()
    begun = threading.Event()

    def call() -> None:
        with calling, calling:
            begun.set()
            time.sleep(0.3)
            ended.set()

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait()

    def in_child() -> bool:
        with calling:  # no lock of the parent's is left
            return ended.is_set()

    assert in_forked_child(in_child)
    thread.join()
    with calling:
        pass
