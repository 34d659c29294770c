"""The command line as a person types it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from srcnn_rt import Engine, __version__
from srcnn_rt.cli import main
from srcnn_rt.jobs.manifest import NAME as MANIFEST
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.reference import quantise

RGB = quantise(drawing(30, 40), np.uint8)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GDAL_CACHEMAX", os.environ.get("GDAL_CACHEMAX", "64"))


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


def save(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(name)


def size(name: str) -> tuple[int, int]:
    with Image.open(name) as image:
        return image.size


def names(folder: str = ".") -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


RESEARCH = main.commands["research"].commands
COMMANDS = {
    **{name: command for name, command in main.commands.items() if name != "research"},
    **{f"research {name}": command for name, command in RESEARCH.items()},
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_and_an_example(command: str) -> None:
    *group, name = command.split()
    result = run(*group, name, "--help")
    assert result.exit_code == 0
    assert f"srcnn-rt {command}" in result.output.replace("Usage: srcnn-rt", "")
    assert all(p.help for p in COMMANDS[command].params if p.param_type_name == "option")
    assert name in run(*group, "--help").output
    assert any(f'"{name}"' in p.read_text() for p in Path(__file__).parents[1].rglob("test_*.py"))


def test_the_help_lists_what_is_used_most_first() -> None:
    lines = run("--help").output.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == [
        "upscale", "export", "train", "eval", "inspect", "models", "tune", "doctor", "research"
    ]  # fmt: skip
    assert sorted(RESEARCH) == ["curves", "filters", "sparse"]


def test_the_command_leaves_warnings_and_the_log_of_the_process_alone() -> None:
    logger = logging.getLogger("srcnn_rt")
    before = (warnings.showwarning, list(warnings.filters), logger.level, list(logger.handlers))
    save("a.png")
    assert run("-v", "upscale", "a.png", "--provider", "cpu").exit_code == 0
    assert run("upscale", "gone.png").exit_code == 1
    assert (warnings.showwarning, list(warnings.filters), logger.level, list(logger.handlers)) == before


def test_verbose_prints_the_log_and_warnings_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    save("a.png")
    real = Engine.upscale_file

    def talkative(*args: Any, **options: Any) -> object:
        logging.getLogger("srcnn_rt").info("a detail")
        logging.getLogger("srcnn_rt").warning("out of memory")
        warnings.warn("a doubt", RuntimeWarning, stacklevel=1)
        return real(*args, **options)

    monkeypatch.setattr(Engine, "upscale_file", talkative)
    monkeypatch.setattr(warnings, "filters", [])  # pytest's turn warnings into errors
    for words, lines in (
        ((), ["warning: out of memory", "warning: a doubt"]),
        (("-v",), ["info: a detail", "warning: out of memory", "warning: a doubt"]),
    ):
        result = run(*words, "upscale", "a.png", "--overwrite", "--provider", "cpu")
        assert result.exit_code == 0
        assert [line for line in result.stderr.splitlines() if line in lines] == lines
        assert ("a detail" in result.stderr) == bool(words)


def test_version() -> None:
    assert run("--version").output == f"srcnn-rt, version {__version__}\n"


def test_upscale_writes_beside_the_input_by_default() -> None:
    save("a.png", "sub/b.tif")
    result = run("upscale", "a.png", "sub/b.tif", "--provider", "cpu")
    assert result.exit_code == 0
    assert names() == [MANIFEST, "a.png", "a_x2.png", f"sub/{MANIFEST}", "sub/b.tif", "sub/b_x2.tif"]
    with Engine(TEST_MODEL, provider="cpu") as e:
        assert (np.asarray(Image.open("a_x2.png")) == e.upscale(RGB)).all()
    first, second, summary = result.stdout.splitlines()
    assert summary == "2 done, 0 failed"
    assert first.startswith("a_x2.png: 40 x 30 → 80 x 60, rgb uint8, srcnn-915-x2 on cpu, ")
    assert second.startswith("sub/b_x2.tif: ")


def test_scale_and_model_choose_the_network() -> None:
    save("a.png")
    assert run("upscale", "a.png", "--scale", "3").exit_code == 0
    assert size("a_x3.png") == (120, 90)
    assert run("upscale", "a.png", "--model", "bicubic-x4", "--scale", "4").exit_code == 0
    assert size("a_x4.png") == (160, 120)
    result = run("upscale", "a.png", "--model", "srcnn-915-x3", "--scale", "2")
    assert result.exit_code == 2
    assert "--scale 2, but the model srcnn-915-x3 has scale 3" in result.stderr
    result = run("upscale", "a.png", "--scale", "7")
    assert result.exit_code == 1
    assert "no bundled model for scale 7; bundled: compact-m10c32-x2" in result.stderr


def test_output_is_a_file_or_a_folder() -> None:
    save("a.png", "b.png")
    assert run("upscale", "a.png", "-o", "out.tif").exit_code == 0
    assert size("out.tif") == (80, 60)
    assert run("upscale", "a.png", "-o", "folder").exit_code == 0
    assert run("upscale", "a.png", "b.png", "-o", "deep/er/").exit_code == 0
    assert names("folder") == ["a_x2.png"]
    assert names("deep") == [f"er/{MANIFEST}", "er/a_x2.png", "er/b_x2.png"]
    result = run("upscale", "a.png", "b.png", "-o", "one.png")
    assert result.exit_code == 2
    assert "one.png: is one file, but there are 2 inputs" in result.stderr


def test_folders_and_patterns() -> None:
    save("in/a.png", "in/b.tif", "in/deep/c.png")
    Path("in/notes.txt").write_text("no image")
    assert run("upscale", "in", "-o", "out").exit_code == 0
    assert names("out") == [MANIFEST, "a_x2.png", "b_x2.tif"]
    assert run("upscale", "in/**/*.png", "-o", "all").exit_code == 0
    assert names("all") == [MANIFEST, "a_x2.png", "c_x2.png"]
    # A second run of a folder leaves the results of the first alone.
    assert run("upscale", "in").exit_code == 0
    assert run("upscale", "in", "--overwrite").exit_code == 0
    assert names("in") == [MANIFEST, "a.png", "a_x2.png", "b.tif", "b_x2.tif", "deep/c.png", "notes.txt"]


def test_two_inputs_that_want_one_name_are_wrong_usage() -> None:
    save("a.png", "sub/a.png")
    result = run("upscale", "a.png", "sub/a.png", "-o", "out")
    assert result.exit_code == 2
    assert "would be the output of both a.png and sub/a.png" in result.stderr
    assert names() == ["a.png", "sub/a.png"]


def test_a_name_with_brackets_is_a_name() -> None:
    save("scan[1].png")
    assert run("upscale", "scan[1].png").exit_code == 0
    assert "scan[1]_x2.png" in names()


def test_one_bad_image_does_not_stop_the_others() -> None:
    save("a.png", "c.png")
    Path("b.png").write_text("not an image")
    result = run("upscale", "a.png", "b.png", "missing.png", "c.png", "no*.png", "--json")
    assert result.exit_code == 1
    assert names() == [MANIFEST, "a.png", "a_x2.png", "b.png", "c.png", "c_x2.png"]
    assert len(result.stderr.splitlines()) == 3
    for name in ("b.png: not an image", "missing.png: no such file", "no*.png: no file matches"):
        assert f"error: {name}" in result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["source"] for line in lines if "error" not in line] == ["a.png", "c.png"]
    assert [line["source"] for line in lines if "error" in line] == [None, "b.png", "missing.png"]


def test_json_says_what_was_done() -> None:
    save("a.png")
    options = ("--json", "--tile", "16", "--threads", "1", "--provider", "cpu")
    (line,) = run("upscale", "a.png", *options).stdout.splitlines()
    report = json.loads(line)
    assert report["source_size"] == [40, 30]
    assert report["target_size"] == [80, 60]
    assert (report["scale"], report["model"], report["provider"]) == (2, "srcnn-915-x2", "cpu")
    assert report["tile"] == 16
    assert report["seconds"] > 0
    assert report["mpx_per_s"] > 0
    assert report["peak_memory"] > 10e6


def test_quiet_prints_errors_only() -> None:
    save("a.png")
    result = run("upscale", "a.png", "missing.png", "--quiet")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "error: missing.png: no such file\n"


@pytest.mark.parametrize(
    "words",
    [
        ["upscale"],
        ["upscale", "a.png", "--tile", "large"],
        ["upscale", "a.png", "--provider", "tpu"],
        ["upscale", "a.png", "--scale", "1"],
        ["upscale", "a.png", "--threads", "0"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_exit_2(words: list[str]) -> None:
    assert run(*words).exit_code == 2


def test_models_lists_scale_architecture_size_and_psnr() -> None:
    lines = run("models").output.splitlines()
    assert lines[0].split()[:4] == ["name", "scale", "architecture", "margin"]
    row = next(line for line in lines if line.startswith("srcnn-915-x3"))
    assert "x3" in row
    assert "9-1-5" in row
    assert "KiB" in row
    assert "set5 32." in row
    objects = [json.loads(line) for line in run("models", "--json").output.splitlines()]
    names = [
        *(f"srcnn-9{k}5-x{s}" for k in "135" for s in (2, 3, 4)),
        *(f"srcnn-9{k}5-x{s}-paper" for k in "15" for s in (2, 3, 4)),
        *(f"srcnn-955-{what}" for what in ("deblur-x1", "denoise-x2", "denoise-x2-paper", "rgb-x3")),
        *(f"srcnn-955-jpeg-x{s}" for s in (1, 2)),
        *(f"compact-{size}-x{s}" for size in ("m4c16", "m10c32") for s in (2, 3, 4)),
        "compact-m4c16-jpeg-x1",
    ]
    assert [o["name"] for o in objects] == sorted(names)
    undone = {"bicubic", "blur:1.6", "noise:15", "jpeg:10..40", "jpeg:10..90"}
    assert {o["training"]["degrade"] for o in objects} == undone
    # Twice reduced, by JPEG and by two, is the hardest; a JPEG of quality 90 has little to gain.
    gains = {"srcnn-955-jpeg-x2": 1, "compact-m4c16-jpeg-x1": 1.3}
    for o in objects:
        gain = o["training"]["psnr"]["set5"] - o["training"]["psnr_baseline"]["set5"]
        assert gain > gains.get(o["name"], 1.5)


def test_inspect_shows_the_analysis_and_the_proof() -> None:
    result = run("inspect", "srcnn-915-x3")
    assert result.exit_code == 0
    assert "rows before 4, rows after 4, columns before 4, columns after 4" in result.output
    report = json.loads(run("inspect", "bicubic-x2", "--verify", "--json").output)
    assert report["scale"] == 2
    assert report["macs_per_pixel"] == pytest.approx(25, rel=0.01)
    assert [c["passed"] for c in report["checks"]] == [True] * 4
    assert (
        "integer weights          holds: largest difference 0"
        in run("inspect", "bicubic-x2", "--verify").output
    )


def test_inspect_fails_where_the_promise_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from srcnn_rt.evaluation import seam_check

    monkeypatch.setattr(
        seam_check,
        "verify",
        lambda model, interface_options: [seam_check.Check("real weights", False, "a seam")],
    )
    result = run("inspect", "bicubic-x2", "--verify")
    assert result.exit_code == 1
    assert "real weights             FAILS: a seam" in result.output
    result = run("inspect", "gone.onnx", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"] == "gone.onnx: no such file"


def test_every_bundled_model_has_a_model_card() -> None:
    from srcnn_rt.models.bundled import bundled

    for name, file in bundled().items():
        model_card = Path(str(file)).with_suffix(".md").read_text()
        assert model_card.startswith(f"# {name}\n")
        for word in ("training data", "Licence", "PSNR"):
            assert word in model_card


def test_doctor_tells_what_works() -> None:
    result = run("doctor")
    assert result.exit_code == 0
    for word in ("python", "onnxruntime", "threads", "instructions", "memory"):
        assert word in result.output
    report = json.loads(run("doctor", "--json").output)
    assert report["providers"]["cpu"] == "works"
    assert report["threads"] >= 1


def test_doctor_fails_where_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    from srcnn_rt import errors
    from srcnn_rt.backends import onnxruntime, openvino

    def missing() -> None:
        raise errors.RuntimeMissingError("ONNX Runtime does not import")

    monkeypatch.setattr(onnxruntime, "runtime", missing)
    monkeypatch.setattr(openvino, "missing", lambda *, bfloat16: "not installed")
    result = run("doctor")
    assert result.exit_code == 1
    assert result.output.count("does not import") == 3


def test_export_without_torch_gives_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "srcnn_rt.exporting.checkpoint", None)
    result = run("export", "a.pt")
    assert result.exit_code == 1
    assert 'pip install "srcnn-rt[train]"' in result.stderr


def test_a_bar_on_a_terminal_and_none_in_a_pipe() -> None:
    pty = pytest.importorskip("pty")
    save("a.png")
    words = [sys.executable, "-m", "srcnn_rt", "upscale", "a.png", "--overwrite", "--provider", "cpu"]
    piped = subprocess.run(words, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    assert piped.stdout.startswith("a_x2.png: 40 x 30")
    master, slave = pty.openpty()
    with subprocess.Popen(words, stderr=slave, stdout=subprocess.DEVNULL) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            seen += data
    os.close(master)
    assert process.returncode == 0
    assert b"a.png" in seen
    assert b"100%" in seen
    assert b"Mpx/s" in seen
