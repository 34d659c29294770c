"""benchmarks/gpu.py without a GPU: its arithmetic, its verdicts, its tables, its checks, its mechanics."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srcnn_rt.models import spec
from tests.conftest import drawing
from tests.helpers.reference import quantise

ROOT = Path(__file__).parent.parent
MODEL = "srcnn-915-x2"

sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import _gpu_case
    import _gpu_peers
    import _gpu_place
    import _gpu_profile
    import _gpu_race
    import _gpu_report
    import _gpu_roofline
    import _gpu_targets
    import _gpu_tiff
    import _gpu_trace
    import gpu
finally:
    sys.path.pop(0)

CPU = _gpu_place.Place("cpu")
GPU = _gpu_place.Place("cuda")


@pytest.fixture
def case(tmp_path: Path) -> _gpu_case.Case:
    data, model = spec.load(MODEL)
    image = quantise(drawing(40, 30, 1, 3), np.uint8)[:, :, 0]
    _gpu_tiff.write_tiff(tmp_path / "lr.tif", image)
    return _gpu_case.Case(CPU, data, model, image, tmp_path / "lr.tif", (16, 48))


class Fake(_gpu_case.Contestant):
    """Gives the image it is told to."""

    def __init__(self, name: str, image: Any = None, precision: str = "float32") -> None:
        super().__init__(name, precision)
        self.image, self.runs, self.fails_at = image, 0, math.inf

    def load(self, case: _gpu_case.Case) -> None:
        pass

    def run(self) -> None:
        self.runs += 1
        if self.runs >= self.fails_at:
            raise RuntimeError("the GPU's memory is full\nand more")

    def result(self) -> Any:
        return self.image


# Arithmetic


def test_the_floor_is_the_longer_of_arithmetic_and_memory() -> None:
    rates = _gpu_roofline.Ceilings({"float16": 500e12}, copy=2e12, up=50e9, down=40e9, both=60e9)
    task = _gpu_roofline.Task(pixels=4_000_000, scale=2, useful=50_000, executed=60_000)
    limits = _gpu_roofline.floor(task, rates, "float16")
    assert limits is not None
    assert limits.arithmetic == pytest.approx(2 * 50_000 * 4e6 / 500e12)
    assert limits.executed == pytest.approx(limits.arithmetic * 1.2)
    assert limits.memory == pytest.approx(5e6 / 2e12)  # a million bytes in, four out
    assert limits.bound == "arithmetic" and limits.device == limits.arithmetic
    light = _gpu_roofline.floor(_gpu_roofline.Task(4_000_000, 2, 10, 10), rates, "float16")
    assert light is not None and light.bound == "memory" and light.device == light.memory


@pytest.mark.parametrize(
    ("up", "down", "both", "seconds"), [(1, 100, 100, 1.0), (100, 2, 100, 2.0), (9, 9, 2, 2.5)]
)
def test_no_rate_of_the_bus_may_be_exceeded(up: float, down: float, both: float, seconds: float) -> None:
    rates = _gpu_roofline.Ceilings({"float16": 1.0}, 1.0, up, down, both)
    task = _gpu_roofline.Task(pixels=4, scale=2, useful=0, executed=0)
    assert _gpu_roofline.bus_seconds(task, rates) == seconds


def test_what_was_not_measured_has_no_floor() -> None:
    task = _gpu_roofline.Task(4, 2, 1, 1)
    assert _gpu_roofline.floor(task, _gpu_roofline.Ceilings({"float16": 1.0}), "float16") is None
    full = _gpu_roofline.Ceilings({"float16": 1.0}, 1, 1, 1, 1)
    assert _gpu_roofline.floor(task, full, "float32") is None


# Verdicts


def row(route: str, role: str, rounds: list[float], model: str = "m", **more: Any) -> dict[str, Any]:
    found = {"mpx_per_s": float(np.median(rounds)), "rounds": rounds, "p50": 1.0, "p95": 2.0, "rms": 0.3}
    names = {"contestant": role or "other", "precision": "float16", "ours": role == "ours", "notes": {}}
    return {"model": model, "route": route, "role": role, "status": "timed", **names, **found, **more}


def document(results: list[dict[str, Any]], label: str = "") -> dict[str, Any]:
    floor = {
        "precision": "float16",
        "bound": "arithmetic",
        "device_mpx_per_s": 1000.0,
        "bus_mpx_per_s": 350.0,
        "host_mpx_per_s": 350.0,
        **{f"{k}_ms": 1.0 for k in ("arithmetic", "executed", "memory", "bus")},
    }
    model = {"name": "m", "architecture": "9-5-5", "useful_macs": 1.0, "executed_macs": 2.0, "floor": floor}
    return {
        "label": label,
        "measured": "2026-01-01",
        "complete": True,
        "machine": {"cpu": "a CPU", "processors": 2, "versions": {"torch": "2"}, "revision": "abc"},
        "device": {"name": "a GPU"},
        "settings": {"side": 64, "rounds": 2, "seconds": 0.5},
        "ceilings": {"matrix": {"float16": 5e14}, "copy": 2e12, "up": 5e10, "down": 4e10, "both": 6e10},
        "models": [model],
        "results": results,
        "profiles": [],
        "targets": [],
    }


RESULTS = [
    row(_gpu_targets.DEVICE, "ours", [400.0, 500.0]),
    row(_gpu_targets.DEVICE, "torch.compile", [250.0, 200.0]),
    row(_gpu_targets.ARRAY, "ours", [300.0, 300.0]),
    row(_gpu_targets.ARRAY, "ONNX Runtime", [25.0, 40.0]),
]


def test_ratios_are_of_rounds_and_each_gets_its_verdict() -> None:
    found = _gpu_targets.judge(document(RESULTS))
    assert [v["measured"] for v in found] == pytest.approx([0.45, 2.05, 300 / 350, 9.75])
    assert [v["wanted"] for v in found] == [0.40, 2.0, 0.85, 10.0]
    assert [v["verdict"] for v in found] == ["met", "met", "met", "missed"]


def test_the_lower_of_card_and_bus_is_what_host_bytes_are_held_against() -> None:
    slow = [row(_gpu_targets.DEVICE, "ours", [300.0]), row(_gpu_targets.ARRAY, "ours", [270.0])]
    assert _gpu_targets.of_lower(slow, {"bus_mpx_per_s": 350.0}) == pytest.approx(0.9)
    assert _gpu_targets.of_lower(slow, {"bus_mpx_per_s": 200.0}) == pytest.approx(1.35)


def test_what_is_missing_or_failed_is_not_measured() -> None:
    failed = {**RESULTS[0], "status": "failed", "reason": "rms 3"}
    found = _gpu_targets.judge(document([failed, *RESULTS[1:]]))
    assert [v["verdict"] for v in found] == ["not measured"] * 3 + ["missed"]
    assert all(v["verdict"] == "not measured" for v in _gpu_targets.judge(document([])))


def test_two_targets_are_of_9_5_5_only() -> None:
    light = document(RESULTS)
    light["models"][0]["architecture"] = "9-1-5"
    assert len(_gpu_targets.judge(light)) == 2


def test_without_a_card_nothing_is_met() -> None:
    found = _gpu_targets.judge(document(RESULTS, CPU.label))
    assert {v["verdict"] for v in found} == {"mechanics only, not a GPU figure"}
    assert not GPU.label


# Tables


@pytest.mark.parametrize("label", ["", CPU.label])
def test_the_report_says_everything_and_what_it_is(label: str) -> None:
    wrong = {**RESULTS[1], "contestant": "wrong", "role": "", "status": "failed", "reason": "rms 3 | more"}
    doc = document([*RESULTS, wrong], label)
    doc["targets"] = _gpu_targets.judge(doc)
    doc["profiles"] = [
        {
            "model": "m",
            "contestant": "ours",
            "route": "r",
            "source": "s",
            "busy": 0.5,
            "rows": [{"name": "k", "ms": 1.0, "share": 1.0, "count": 2.0}],
        },
        {"model": "m", "contestant": "theirs", "route": "r", "reason": "no rights"},
    ]
    text = _gpu_report.markdown(doc)
    assert text.count(CPU.label) == (0 if not label else text.count(label))
    assert (CPU.label in text) == bool(label) and ("Mechanics only, not a GPU figure" in text) == bool(label)
    assert ("| met |" in text) == (not label)
    assert "failed: rms 3 / more" in text and "45.0%" in text and "58.6" in text
    assert "busy for 50% of the time" in text and "no profile: no rights" in text
    assert "Not complete" not in text
    doc["complete"] = False
    assert "Not complete" in _gpu_report.markdown(doc)
    json.dumps(doc, allow_nan=False)


def test_a_report_of_a_run_that_was_killed_at_once() -> None:
    doc = {**document([]), "ceilings": None, "models": [], "complete": False}
    assert "Not complete" in _gpu_report.markdown(doc)


# Profiles


def event(cat: str, name: str, ts: float, dur: float, tid: int = 0, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 0, "tid": tid, "args": args}


def test_time_of_inner_events_is_not_counted_twice() -> None:
    events = [event("cpu_op", "inner", 2, 3), event("cpu_op", "outer", 0, 10), event("cpu_op", "next", 10, 1)]
    assert dict(_gpu_profile.self_times(events)) == {"outer": 7.0, "inner": 3.0, "next": 1.0}


def test_streams_that_overlap_are_busy_once() -> None:
    events = [event("kernel", "a", 0, 10, 7), event("kernel", "b", 5, 10, 8), event("kernel", "c", 20, 5, 7)]
    assert _gpu_profile.busy(events) == 20.0


def test_kernels_of_a_card_go_before_operators_of_the_host() -> None:
    trace = [
        event("cpu_op", "aten::conv2d", 0, 100),
        event("kernel", "void sm90::gemm<float, (int)4>(float*)", 10, 60, 7),
        event("kernel", "void sm90::gemm<half, (int)2>(half*)", 80, 20, 7),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 100, 20, 7),
        {"ph": "M", "name": "process_name"},
    ]
    found = _gpu_profile.device_profile(trace, 2, 200e-6)
    assert [(r["name"], r["share"], r["count"]) for r in found["rows"]] == [
        ("sm90::gemm", 0.8, 1.0),
        ("Memcpy HtoD (Pinned -> Device)", 0.2, 0.5),
    ]
    assert found["rows"][0]["ms"] == pytest.approx(0.04)
    assert found["busy"] == pytest.approx(0.5) and "GPU" in found["source"]
    assert "host" in _gpu_profile.device_profile(trace[:1], 1, 1.0)["source"]
    assert _gpu_profile.device_profile([], 1, 1.0)["rows"] == []


def test_rare_rows_are_one() -> None:
    rows = _gpu_profile.table_of([(str(k), 10.0 - k) for k in range(5)], 1, maximum=2)
    assert [r["name"] for r in rows] == ["0", "1", "3 others"]
    assert sum(r["share"] for r in rows) == pytest.approx(1)


def test_a_profile_of_onnx_runtime(case: _gpu_case.Case) -> None:
    peer = _gpu_peers.OnnxRuntime(CPU)
    peer.load(case)
    found = _gpu_trace.onnx_traced(peer, case)
    names = [r["name"].split()[0] for r in found["rows"]]
    assert names.count("Conv") == 4 and "DepthToSpace" in names and "CPU" in found["source"]
    assert sum(r["share"] for r in found["rows"]) == pytest.approx(1)
    assert all(r["count"] == 1 for r in found["rows"])  # warm-up left out


# Checks and turns


def test_a_wrong_image_is_refused(case: _gpu_case.Case) -> None:
    right = np.full((80, 60), 100, np.uint8)
    near, far = right.copy(), right.copy()
    near[0, 0], far[0, 0] = 101, 102
    assert _gpu_race.verify(Fake("a", right), case, right) == (0.0, 0.0)
    assert _gpu_race.verify(Fake("a", near), case, right)[1] == 1.0
    assert _gpu_race.verify(Fake("a", far, "float16"), case, right)[1] == 2.0
    for wrong, precision in ((far, "float32"), (right + np.uint8(1), "float16"), (right[1:], "float32")):
        with pytest.raises(_gpu_race.WrongImageError):
            _gpu_race.verify(Fake("a", wrong, precision), case, right)


def test_difference_of_images_taller_than_a_part() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (1100, 7), np.uint8) for _ in range(2))
    delta = a.astype(float) - b
    rms, worst = _gpu_race.difference(a, b)
    assert rms == pytest.approx(np.sqrt(np.mean(delta**2))) and worst == np.abs(delta).max()


def run_race(team: list[Fake], rounds: int, limit: float) -> tuple[bool, list[Any]]:
    seen: list[Any] = []
    clock = iter(range(1000))
    deadline = _gpu_race.Deadline(limit, lambda: float(next(clock)))

    def keep(found: dict[str, Any], fallen: dict[str, Exception]) -> None:
        seen.append((found, {**fallen}))

    done = _gpu_race.race(team, lambda: None, 10**6, rounds, 0.0, deadline, keep)
    return done, seen


def test_one_that_fails_falls_out_and_the_others_go_on() -> None:
    bad, good = Fake("bad"), Fake("good")
    bad.fails_at = 2
    done, seen = run_race([bad, good], 3, math.inf)
    assert done and [len(found) for found, _ in seen] == [2, 1, 1]
    assert [sorted(fallen) for _, fallen in seen] == [[], ["bad, array → array"], ["bad, array → array"]]
    assert seen[-1][0]["good, array → array"]["runs"] == 3 and bad.runs == 2
    assert gpu.line(seen[-1][1]["bad, array → array"]) == "RuntimeError: the GPU's memory is full"


def test_no_round_begins_late_but_the_first() -> None:
    done, seen = run_race([Fake("a")], 5, 0.0)
    assert not done and len(seen) == 1


def test_a_peer_takes_its_fastest_window_and_passes_over_those_that_fail() -> None:
    taken: list[int] = []

    def run() -> None:
        if taken[-1] == 3:
            raise MemoryError

    assert _gpu_case.choose((3, 5), taken.append, run, CPU) == 5 and taken[-1] == 5
    with pytest.raises(MemoryError):
        _gpu_case.choose((3,), taken.append, run, CPU)


def test_everyone_makes_the_same_image(case: _gpu_case.Case) -> None:
    """But for compilation, which takes longer, and srcnn-rt fast, which no processor has by this name."""
    pytest.importorskip("torch")
    reference = gpu.truth(case)
    ready = []
    for contestant in gpu.contestants(CPU, False):
        if "compile" in contestant.name or "fast" in contestant.name:
            continue
        contestant.load(case)
        _gpu_race.verify(contestant, case, reference)
        contestant.ready = True
        ready.append((contestant.name, contestant.route))
    assert len(set(ready)) == len(ready) == 10
    assert {route for _, route in ready} == set(_gpu_targets.ROUTES)


def test_what_stands_on_one_that_failed_says_so(case: _gpu_case.Case) -> None:
    with pytest.raises(RuntimeError, match="its own row"):
        _gpu_peers.Filed(_gpu_peers.OnnxRuntime(CPU)).load(case)


@pytest.mark.parametrize(
    ("peer", "reason"),
    [(_gpu_peers.OpenCv, "no CUDA target"), (_gpu_peers.OnnxRuntime, "has no CUDAExecutionProvider")],
)
def test_a_peer_never_takes_the_processor_for_a_card(case: _gpu_case.Case, peer: Any, reason: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(RuntimeError, match=reason):
        peer(GPU).load(replace(case, place=GPU))


def test_the_document_is_written_step_by_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A run whose time is up at once has everyone's row, and says that it is not complete."""
    pytest.importorskip("torch")
    argv = f"gpu.py --provider cpu --models {MODEL} --side 16 --limit 0 --seconds 0 --rounds 1 --out".split()
    monkeypatch.setattr(sys, "argv", [*argv, str(tmp_path)])
    monkeypatch.setattr(gpu._gpu_torch, "forget", lambda: None)
    saved: list[dict[str, Any]] = []
    monkeypatch.setattr(gpu, "save", lambda found, path: saved.append(json.loads(json.dumps(found))))
    gpu.main()
    assert [bool(d["ceilings"]) for d in saved[:2]] == [False, True]
    assert [len(d["results"]) for d in saved[2:-1]] == [*range(1, len(saved) - 2)]
    assert not saved[-1]["complete"] and all(d["label"] == CPU.label for d in saved)
    assert {r["reason"] for r in saved[-1]["results"]} == {gpu.LATE}
    assert "Not complete" in capsys.readouterr().out


# The command


def test_without_a_card_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "why_no_gpu", lambda index: "there is no GPU 0: torch finds 0")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    out, err = capsys.readouterr()
    assert not out and err == "--provider cuda: nothing to measure on: there is no GPU 0: torch finds 0\n"


def test_why_there_is_no_card_is_one_line() -> None:
    torch = pytest.importorskip("torch")
    reason = _gpu_place.why_no_gpu(10**6)
    assert reason and "\n" not in reason
    if torch.version.cuda is None:
        assert "built without CUDA" in reason


@pytest.mark.slow
def test_the_mechanics_on_a_processor(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--provider", "cpu", "--models", MODEL]
    sizes = ["--side", "32", "--windows", "32", "--rounds", "2", "--seconds", "0.01", "--out", str(tmp_path)]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["label"] == CPU.label and found["complete"]
    assert done.stdout.count(CPU.label) > 10 and "| met |" not in done.stdout
    status = {(r["contestant"], r["route"]): r["status"] for r in found["results"]}
    assert set(status.values()) <= {"timed", "skipped"}
    assert status["srcnn-rt exact", _gpu_targets.DEVICE] == "timed"
    assert status["ONNX Runtime, defaults, files by GDAL", _gpu_targets.FILE] == "timed"
    assert {v["verdict"] for v in found["targets"]} == {CPU.label}
    assert any(p.get("rows") for p in found["profiles"])
