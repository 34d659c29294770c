"""Whatever befalls a job, no wrong pixel gets the result's name, and what is done is not done again."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srcnn_rt import Engine, OutputError, SrcnnError
from srcnn_rt.execution import executor
from srcnn_rt.io.tiff import reader as raster
from srcnn_rt.io.tiff import writer as tiff
from srcnn_rt.jobs import file_job, job, journal
from srcnn_rt.models.spec import ValueRange
from srcnn_rt.tiling import geometry
from tests.conftest import TEST_MODEL
from tests.helpers import faults
from tests.helpers.faults import KINDS, SHAPE, Bench, Kind, adopt, states, stop_after, write_gray

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


small, engine = faults.small, faults.engine


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), KINDS[request.param], engine)


@pytest.fixture(scope="module")
def gray(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("gray"), KINDS["gray"], engine)


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> None:
    for name in {"bench", "gray"} & set(request.fixturenames):
        request.getfixturevalue(name).restart()


def test_a_kill_at_every_step(bench: Bench, tmp_path: Path) -> None:
    """Between any two calls of the system and in the middle of every write, finishing and publishing too."""
    with states(bench.folder, tmp_path) as found:
        bench.run()
    assert bench.target.read_bytes() == bench.expected
    assert len(found) > 3 * bench.chunks
    assert sorted(p.name for p in found[-1].iterdir()) == ["a.tif", bench.target.name]
    for state in found[: -1 : 1 if bench.kind is KINDS["gray"] else 5] + found[-9:-1]:
        adopt(bench, state)
        published = bench.target.exists()
        bench.resume()
        assert not (published and bench.rendered), state


def test_a_job_is_killed_again_and_again(bench: Bench, tmp_path: Path) -> None:
    """Every run gets a step further: kills of what is resumed."""
    rng = np.random.default_rng(5)
    bench.interrupt(1)
    for number in itertools.count():
        with states(bench.folder, tmp_path / str(number)) as found:
            bench.run(resume=True)
        if number == 8:
            break
        adopt(bench, found[int(rng.integers(len(found) - 1))])
    assert bench.target.read_bytes() == bench.expected


def test_every_chunk_is_computed_once(bench: Bench) -> None:
    """Interrupted after k chunks, for every k: the same bytes, and only the rest is computed."""
    for k in range(1, bench.chunks):
        bench.interrupt(k)
        assert bench.contents() == ["a.tif", bench.partial.name, bench.journal.name]
        bench.resume()
        assert len(bench.rendered) == bench.chunks - k
        bench.restart()


def test_an_interruption_before_the_first_chunk_leaves_nothing(bench: Bench) -> None:
    bench.interrupt(0)
    assert bench.contents() == ["a.tif"]


@pytest.mark.parametrize("stage", ["read", "write", "progress", "open", "finish", "publish"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_every_stage(gray: Bench, stage: str, error: type[BaseException]) -> None:
    """It ends what runs, keeps what is done, and can be resumed."""
    calls = itertools.count()

    def after(limit: int, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            if next(calls) == limit:
                raise error
            return real(*words, **options)

        return call

    options: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        match stage:
            case "read":
                patch.setattr(raster.RasterSource, "read", after(1, raster.RasterSource.read))
            case "write":
                patch.setattr(tiff.TiffTarget, "append", after(9, tiff.TiffTarget.append))
            case "progress":
                options["progress"] = after(6, lambda done, total: None)
            case "open":
                patch.setattr(job, "open_source", after(0, job.open_source))
            case "finish":
                patch.setattr(tiff.TiffTarget, "_complete", after(0, tiff.TiffTarget._complete))
            case "publish":
                patch.setattr(file_job, "_publish", after(0, file_job._publish))
        with pytest.raises(error):
            gray.run(**options)
    if stage == "open":  # nothing was done
        assert gray.contents() == ["a.tif"]
        return
    assert gray.contents() == ["a.tif", gray.partial.name, gray.journal.name]
    gray.resume()
    assert len(gray.rendered) < gray.chunks


def test_a_journal_cut_anywhere(bench: Bench, tmp_path: Path) -> None:
    """As a torn write leaves it; tests/test_journal.py reads one cut at every byte."""
    bench.interrupt(3)
    whole = bench.journal.read_bytes()
    shutil.copytree(bench.folder, tmp_path / "state")
    ends = [k for k, byte in enumerate(whole) if byte == ord("\n")]
    cuts = {end + k for end in ends for k in (0, 1, 12)} | set(range(0, len(whole), 97))
    for cut in sorted(cut for cut in cuts if cut <= len(whole)):
        adopt(bench, tmp_path / "state")
        bench.journal.write_bytes(whole[:cut])
        bench.resume()
        noted = whole[:cut].count(b"\n") - 2
        assert len(bench.rendered) == bench.chunks - max(0, noted)


def test_a_partial_shorter_than_its_journal_says(bench: Bench, tmp_path: Path) -> None:
    """Whether the journal says that it is on the disk or not."""
    bench.interrupt(4)
    shutil.copytree(bench.folder, tmp_path / "state")
    last = json.loads(bench.journal.read_bytes().splitlines()[-1][9:])
    size = last["at"] + sum(last["sizes"]) if "at" in last else bench.partial.stat().st_size
    for synced, cut in itertools.product((False, True), np.linspace(0, size - 1, 12, dtype=int)):
        adopt(bench, tmp_path / "state")
        os.truncate(bench.partial, cut)
        if synced:
            with bench.journal.open("ab") as file:
                file.write(journal.line_of({"synced": True}))
        bench.resume()
        assert len(bench.rendered) > bench.chunks - 4


def test_bytes_lost_with_the_power(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written after the last sync may be anything: zeros here, in any place."""
    clock = itertools.count()
    monkeypatch.setattr(file_job, "SYNC_SECONDS", 1.5)  # after the third chunk
    monkeypatch.setattr(file_job.time, "monotonic", lambda: float(next(clock)) / 2)
    bench.interrupt(5)
    monkeypatch.undo()
    items = [json.loads(line[9:]) for line in bench.journal.read_bytes().splitlines()]
    chunks = [item for item in items if "chunk" in item]
    assert (len(chunks), items.index({"synced": True})) == (5, 5)
    shutil.copytree(bench.folder, tmp_path / "state")
    written = bench.partial.read_bytes()
    for number, (y, x) in enumerate(bench.rendered[:5]):
        if number < 3:
            continue
        places = [(2 * y * 2 * SHAPE[1] + 2 * x) * 3]  # of RGB samples, row by row
        if "at" in chunks[number]:  # tiles: the first byte, the last, and some between
            places = [*np.linspace(0, sum(chunks[number]["sizes"]) - 1, 6, dtype=int) + chunks[number]["at"]]
        for at in places:
            adopt(bench, tmp_path / "state")
            zeroed = 0 if written[at] else 1
            with bench.partial.open("r+b") as file:
                file.seek(at)
                file.write(bytes([zeroed]))
            bench.resume()
            # A TIFF is appended to, so a damaged chunk takes those behind it along.
            kept = number if "at" in chunks[number] else 4
            assert len(bench.rendered) == bench.chunks - kept


def test_old_lines_do_not_vouch_for_new_bytes(gray: Bench, tmp_path: Path) -> None:
    """The journal is cut with the file: a second kill must not find lines of the first run."""
    gray.interrupt(5)
    with gray.journal.open("ab") as file:
        file.write(journal.line_of({"synced": True}))
    last = json.loads(gray.journal.read_bytes().splitlines()[-2][9:])
    os.truncate(gray.partial, last["at"] + 1)  # the fifth chunk is to be written again
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 0)
        gray.run(resume=True)
    assert gray.journal.read_bytes().count(b'"chunk"') == 4
    gray.resume()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("synced", [False, True])
def test_any_subset_of_a_zarr_is_kept_in_any_order(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: bool
) -> None:
    """Chunks that are recorded in shuffled order are kept; exactly the others are computed."""
    pytest.importorskip("zarr")
    from srcnn_rt.io.zarr import writer

    monkeypatch.setattr(writer, "CHUNK", 32)
    source, target = tmp_path / "a.tif", tmp_path / "b.zarr"
    write_gray(source)
    engine.upscale_file(source, target)
    expected = tree(target)
    shutil.rmtree(target)
    rng = np.random.default_rng(3)
    part, computed = executor._Run._input, list[int]()

    def counted(this: Any, item: tuple[int, Any]) -> Any:
        computed.append(item[0])
        return part(this, item)

    monkeypatch.setattr(executor._Run, "_input", counted)
    for _ in range(4):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(file_job, "_publish", interrupted)
            engine.upscale_file(source, target)
        total = len(computed)
        path = tmp_path / "b.zarr.partial.journal"
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if b'"made"' not in line]
        kept = rng.permutation(total)[: int(rng.integers(1, total))]
        shuffled = [lines[2 + k] for k in kept]
        if synced:
            shuffled.append(journal.line_of({"synced": True}))
        path.write_bytes(b"".join(lines[:2] + shuffled))
        for k in set(range(total)) - {*kept.tolist()}:
            y, x = divmod(k, -(-2 * SHAPE[1] // 64))
            for chunk in (tmp_path / "b.zarr.partial" / "0" / "c").glob(f"0/{y}/{x}"):
                chunk.unlink()
        computed.clear()
        engine.upscale_file(source, target, resume=True)
        assert sorted(computed) == sorted(set(range(total)) - {*kept.tolist()})
        assert tree(target) == expected
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.zarr"]
        shutil.rmtree(target)
        computed.clear()


def interrupted(*words: Any) -> None:
    raise KeyboardInterrupt


def test_restored_chunks_of_a_zarr_are_synced_too(engine: Engine, tmp_path: Path) -> None:
    """Otherwise a line `synced` of the second run would vouch for chunks that only the first one wrote."""
    pytest.importorskip("zarr")
    source, target = tmp_path / "a.tif", tmp_path / "b.zarr"
    tifffile.imwrite(source, np.arange(600 * 900, dtype=np.uint32).astype(np.uint8).reshape(600, 900))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2)
        engine.upscale_file(source, target)
    from srcnn_rt.io.zarr import writer

    flushed = set[Path]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_job, "SYNC_SECONDS", 0.0)
        patch.setattr(writer, "flush", lambda path, files=(): flushed.update(files))
        engine.upscale_file(source, target, resume=True)
    names = {str(path.relative_to(tmp_path / "b.zarr.partial")) for path in flushed}
    assert {name for name in tree(target) if name.startswith("0/c/")} <= names


def test_what_is_resumed_and_discarded_is_logged(gray: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "srcnn_rt"):
        gray.interrupt(3)
        assert "kept after KeyboardInterrupt; the job can be resumed" in caplog.text
        last = json.loads(gray.journal.read_bytes().splitlines()[-1][9:])
        os.truncate(gray.partial, last["at"] + 1)
        gray.resume()
        assert f"resumed with 2 of {gray.chunks} chunks" in caplog.text
        assert "discarded 1 recorded chunks, missing or damaged in the file" in caplog.text
        gray.restart()
        gray.interrupt(3)
        gray.run(overwrite=True)
        assert "discarded, because overwriting was requested" in caplog.text
    assert {record.name for record in caplog.records} == {"srcnn_rt"}


@pytest.mark.parametrize("missing", ["partial", "journal", "both"])
def test_a_leftover_is_missing(bench: Bench, missing: str) -> None:
    bench.interrupt(3)
    for path in (bench.partial, bench.journal):
        if missing in (path.suffix[1:], "both"):
            path.unlink()
    bench.resume()
    assert len(bench.rendered) == bench.chunks


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("page", "chunk", "at", "sizes", "crc", "plans", "job", "synced", "made")


@pytest.fixture(scope="module", params=["gray", "png"])
def left(
    request: pytest.FixtureRequest, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bench, Path, list[bytes]]:
    """An interrupted job, a copy of it, and the lines of its journal."""
    bench = Bench(tmp_path_factory.mktemp("left"), KINDS[request.param], engine)
    bench.interrupt(4)
    state = tmp_path_factory.mktemp("state") / "state"
    shutil.copytree(bench.folder, state)
    return bench, state, bench.journal.read_bytes().splitlines(keepends=True)


def tried(bench: Bench) -> None:
    """Resume: the expected image, or one line."""
    try:
        bench.resume()
    except SrcnnError as error:
        assert "\n" not in str(error)
        assert str(bench.folder) in str(error)
        assert not bench.target.exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.integers(0, 5), name=st.sampled_from(FIELDS), value=ANY)
def test_hostile_values(left: tuple[Bench, Path, list[bytes]], line: int, name: str, value: Any) -> None:
    """With right checksums: whoever wrote them, only what can be right is taken."""
    bench, state, lines = left
    adopt(bench, state)
    item = json.loads(lines[line][9:])
    item[name] = value
    made = [*lines[:line], journal.line_of(item), *lines[line + 1 :]]
    bench.journal.write_bytes(b"".join(made))
    tried(bench)


WRONG = [-1, 0, 2**31, 2**64, 1.0, True, "1", None, [], {}, float("inf")]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["at", "sizes", "one size", "crc", "page", "chunk", "tile", "chunk size"])
def test_every_value_out_of_its_rule(left: tuple[Bench, Path, list[bytes]], name: str, value: Any) -> None:
    """Where the journal says that the disk has it, too: then no checksum is looked at."""
    bench, state, lines = left
    adopt(bench, state)
    items = [json.loads(line[9:]) for line in lines]
    match name:
        case "tile" | "chunk size":
            items[1]["plans"][0][name == "chunk size" and 3] = value
        case "one size":
            items[3]["sizes"] = [value, *items[3].get("sizes", [])[1:]]
        case _:
            items[3][name] = value
    if name in ("at", "sizes", "one size"):
        items.append({"synced": True})
    bench.journal.write_bytes(b"".join(journal.line_of(item) for item in items))
    tried(bench)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_journal(left: tuple[Bench, Path, list[bytes]], data: st.DataObject) -> None:
    """Bytes changed anywhere, lines lost, doubled or exchanged."""
    bench, state, lines = left
    adopt(bench, state)
    order = data.draw(st.lists(st.sampled_from(range(len(lines))), max_size=8) | st.just(range(len(lines))))
    raw = bytearray(b"".join(lines[k] for k in order))
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    bench.journal.write_bytes(raw + data.draw(st.binary(max_size=20)))
    tried(bench)


@settings(max_examples=300, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    tile=st.integers(8, 600),
    period=st.integers(1, 4),
    kind=st.sampled_from(["valid", "fixed", "padded", "padded fixed"]),
    block=st.sampled_from([1, 16, 128]),
    maximum=st.integers(1, 2000),
)
def test_every_plan_that_is_made_is_allowed(
    shape: tuple[int, int], tile: int, period: int, kind: str, block: int, maximum: int
) -> None:
    fixed = 48 * period if "fixed" in kind else None
    clipped = kind.startswith("padded")
    rule = geometry.Rules(period, clipped, 3 if clipped else 0, period, 2 * period, fixed)
    made = geometry.plan(
        shape, tile, margin=0 if clipped else 3, rules=(rule, rule), block=(block, block), max_chunk=maximum
    )
    assert made.allows(made.tile, made.chunk, (block, block))
    assert not made.allows(
        made.tile, (made.chunk[0], made.chunk[1] + np.lcm(block, period) * 2**20), (block, block)
    )
    if block > 1:
        assert (
            not made.allows(made.tile, (made.chunk[0] + period, made.chunk[1]), (block, block))
            or block == period
        )


def said(**facts: Any) -> Engine:
    """An engine of the same model, of which something else is said."""
    made = Engine("bicubic-x2", provider="cpu", tile=8, threads=1)
    made._spec = replace(made._spec, **facts)
    return made


DIFFERENT: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "model": lambda bench: {"engine": Engine("bicubic-x2", provider="cpu", tile=8, threads=1)},
    "tile": lambda bench: {"engine": Engine("bicubic-x2", provider="cpu", tile=16, threads=1)},
    "compress": lambda bench: {"compress": "zstd"},
    "cog": lambda bench: {"cog": True},
    "page": lambda bench: {"page": 1},
    "bands": lambda bench: {"bands": True},
    "nodata": lambda bench: {"nodata": 7},
    "classes": lambda bench: {"classes": True},
    "range": lambda bench: {"engine": said(range=ValueRange.parse("0..255"))},
    "data range": lambda bench: {"engine": said(equivariant=False), "data_range": (0, 4095)},
    "version": lambda bench: {},
    "modification time of the source": lambda bench: os.utime(bench.source, ns=(1, 1)) or {},
    "hash of the source": lambda bench: (bench.folder / "a.tif.msk").write_bytes(b"") or {},
    "size of the source": lambda bench: bench.source.write_bytes(bench.source.read_bytes() + b"\0") and {},
}


@pytest.mark.parametrize("item", DIFFERENT)
def test_another_job_is_not_gone_on_with(
    gray: Bench, item: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what differs, and what was left stays as it is."""
    shutil.copy2(gray.source, tmp_path / "a.tif")
    gray.interrupt(3)
    before = gray.partial.read_bytes(), gray.journal.read_bytes()
    options = DIFFERENT[item](gray)
    if item == "version":
        monkeypatch.setattr("srcnn_rt.engine.__version__", "0.0")
    if item == "model":
        options["engine"].model_hash = "0" * 16
    with pytest.raises(
        OutputError, match=f"cannot be resumed: the {item} differs: .* in the journal, .* now"
    ) as caught:
        gray.run(resume=True, **options)
    assert "\n" not in str(caught.value)
    assert (gray.partial.read_bytes(), gray.journal.read_bytes()) == before
    monkeypatch.undo()
    shutil.copy2(tmp_path / "a.tif", gray.source)
    (gray.folder / "a.tif.msk").unlink(missing_ok=True)
    gray.resume()


def test_auto_is_not_a_number(gray: Bench) -> None:
    """They may be the same tile here and another there."""
    gray.interrupt(3)
    with (
        Engine("bicubic-x2", provider="cpu", tile="auto") as auto,
        pytest.raises(OutputError, match="the tile differs: 8 in the journal, auto now"),
    ):
        gray.run(resume=True, engine=auto)


def test_other_threads_go_on_with_the_same_plan(bench: Bench) -> None:
    """So that a job can move to another machine: chunks and windows are as they were."""
    bench.interrupt(3)
    with Engine("bicubic-x2", provider="cpu", tile=8, threads=3) as more:
        bench.resume(engine=more)
    assert len(bench.rendered) == bench.chunks - 3


def test_a_network_of_several_layers(tmp_path: Path) -> None:
    with Engine(TEST_MODEL, provider="cpu", tile=8, threads=2) as engine:
        bench = Bench(tmp_path, Kind(write_gray), engine)
        whole = engine.upscale(tifffile.imread(bench.source))
        for k in range(1, bench.chunks, 2):
            bench.interrupt(k)
            bench.resume()
            assert (tifffile.imread(bench.target) == whole).all()
            bench.restart()


def test_what_was_left_is_not_overwritten_by_accident(gray: Bench) -> None:
    gray.interrupt(3)
    before = gray.partial.read_bytes(), gray.journal.read_bytes()
    with pytest.raises(
        OutputError, match=r"left by an interrupted run; use --resume to continue it or --overwrite"
    ):
        gray.run()
    assert (gray.partial.read_bytes(), gray.journal.read_bytes()) == before
    gray.run(overwrite=True)
    assert len(gray.rendered) == gray.chunks
    assert gray.contents() == ["a.tif", "b.tif"]


def test_a_result_that_is_there_is_not_taken_for_ours(gray: Bench) -> None:
    """Nor replaced by a resumed job that may not."""
    gray.interrupt(3)
    gray.target.write_text("precious")
    with pytest.raises(OutputError, match="already exists"):
        gray.run(resume=True)
    assert gray.target.read_text() == "precious"
    assert gray.partial.exists()
    gray.resume(overwrite=True)
    assert len(gray.rendered) == gray.chunks - 3
