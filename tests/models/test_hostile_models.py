"""Hostile model files: the error is one line that names file, rule and value, and no other file is opened."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from srcnn_rt import Engine, ModelError, SourceMissingError, SrcnnError
from srcnn_rt.models import spec
from tests.conftest import TEST_MODEL
from tests.helpers import models
from tests.helpers.hostile import Proto, convolution, limited, proto, refused

node = helper.make_node


# Other files.


def external(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="36")


def in_a_weight(made: Proto, location: str) -> None:
    external(made.graph.initializer[0], location)


def in_a_constant(made: Proto, location: str) -> None:
    constant = node("Constant", [], ["w"], "constant", value=made.graph.initializer[0])
    external(constant.attribute[0].t, location)
    del made.graph.initializer[0]
    conv = onnx.NodeProto()
    conv.CopyFrom(made.graph.node[0])
    del made.graph.node[:]
    made.graph.node.extend([constant, conv])


def in_a_body(made: Proto, location: str) -> None:
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "inner")
    external(weight, location)
    body = helper.make_graph(
        [node("Conv", ["lr", "inner"], ["out"])],
        "body",
        [],
        [models.value("out", [1, 1, "h", "w"])],
        [weight],
    )
    made.graph.initializer.append(models.tensor("yes", np.array(True)))
    del made.graph.node[:]
    made.graph.node.append(node("If", ["yes"], ["hr"], "choice", then_branch=body, else_branch=body))


def in_a_function(made: Proto, location: str) -> None:
    constant = node(
        "Constant", [], ["w"], value=numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    )
    external(constant.attribute[0].t, location)
    opset = [helper.make_opsetid("", 17)]
    made.functions.append(
        helper.make_function("own", "f", ["x"], ["y"], [constant, node("Conv", ["x", "w"], ["y"])], opset)
    )
    made.opset_import.append(helper.make_opsetid("own", 1))
    del made.graph.node[:]
    made.graph.node.append(node("f", ["lr"], ["hr"], domain="own"))


def only_named(made: Proto, location: str) -> None:
    """Data in the model, and also the name of a file."""
    made.graph.initializer[0].external_data.add(key="location", value=location)


PLACES = [in_a_weight, in_a_constant, in_a_body, in_a_function, only_named]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["secret.bin", "absolute", "../other/secret.bin", "pipe", ""])
def test_no_tensor_makes_us_open_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Proto, str], None], location: str
) -> None:
    for folder in ("model", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "secret.bin").write_bytes(bytes(100))
    os.mkfifo(tmp_path / "model" / "pipe")  # opening it would hang
    monkeypatch.chdir(tmp_path / "model")
    if location == "absolute":
        location = str(tmp_path / "other" / "secret.bin")
    made = convolution()
    place(made, location)
    data = made.SerializeToString()
    (tmp_path / "model" / "m.onnx").write_bytes(data)
    opened: list[str] = []

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and threading.current_thread() is threading.main_thread():
            opened.append(str(args[0]))

    calls = [lambda: spec.load("m.onnx"), lambda: Engine("m.onnx", tile=None), lambda: Engine(data)]
    if location == "secret.bin" and place is in_a_weight:
        # Exporters write a file of a plain name beside the model. Bytes have no folder.
        calls = calls[2:]
        opened.append("m.onnx")
    watching.append(watch)
    try:
        for call in calls:
            with pytest.raises(ModelError, match="is kept in another file; save the model as one file"):
                call()
    finally:
        watching.clear()
    assert "m.onnx" in opened
    assert [name for name in opened if "secret" in name or "pipe" in name] == []
    # `interface` is called before ONNX Runtime, whose C++ opens files without an audit event.
    with pytest.raises(ModelError, match="is kept in another file"):
        spec.interface(data)


watching: list[Callable[[str, tuple[object, ...]], None]] = []
sys.addaudithook(lambda event, args: [w(event, args) for w in watching] and None)


# Text.


def test_long_names_make_no_long_line(tmp_path: Path) -> None:
    name = "\x1b[2Jx\n" * 500_000
    made = proto([node("GlobalMaxPool", ["lr"], ["hr"], name)])
    refused(tmp_path / "m.onnx", made, "(GlobalMaxPool)")
    assert "\\x1b[2Jx" in str(SrcnnError("\x1b[2Jx"))
    assert str(SrcnnError("caf\udce9.png")) == "caf\\udce9.png"
    assert len(str(SrcnnError("x" * 10**7))) == 1005


def test_names_that_are_no_text(tmp_path: Path) -> None:
    made = convolution()
    helper.set_model_props(made, {"srcnn_rt.scaleXX": "1"})
    data = made.SerializeToString()
    refused(tmp_path / "m.onnx", data.replace(b"scaleXX", b"scale\xff\xff"), "is not UTF-8: b'srcnn_rt.scale")
    refused(tmp_path / "m.onnx", data.replace(b"conv", b"con\xff"), "not UTF-8")


@pytest.mark.parametrize(
    ("key", "text", "rule"),
    [
        ("training", "[" * 100_000, "srcnn_rt.training is not JSON"),
        ("training", '{"a": ' + "9" * 5000 + "}", "srcnn_rt.training is not JSON"),
        ("training", '{"psnr": {"set5": "many"}}', "psnr must be an object of numbers in dB"),
        ("training", '{"psnr": {"set5": NaN}}', "psnr must be an object of numbers in dB"),
        ("training", '{"psnr": 7}', "psnr must be an object of numbers in dB"),
        ("check", "3", "srcnn_rt.check is not a JSON object"),
        ("range", "0..inf", "a value range is"),
        ("range", "0..1e-320", "a value range is"),
        ("range", "mean=0,0 std=1,1", "srcnn_rt.range needs 1 or 1 numbers, got 2"),
        ("scale", "1" * 10**6, "metadata srcnn_rt.scale must match the graph's, 1, got 1111"),
    ],
)
def test_metadata(tmp_path: Path, key: str, text: str, rule: str) -> None:
    made = convolution()
    helper.set_model_props(made, {f"srcnn_rt.{key}": text})
    refused(tmp_path / "m.onnx", made, rule)


# Files.


# Fields that are messages: graph and metadata; nodes, weights, inputs, outputs; attributes, types.
INNER = {(): (7, 14), (7,): (1, 5, 11, 12), (7, 1): (5,), (7, 11): (2,), (7, 12): (2,)}


def boundaries(data: bytes, start: int = 0, stop: int | None = None, path: tuple[int, ...] = ()) -> list[int]:
    """Return the byte offsets at which a field of the message or of a nested one, or its content, begins."""
    found, at, stop = [], start, len(data) if stop is None else stop

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if not data[at - 1] & 128:
                return value, at

    while at < stop:
        found.append(at)
        tag, at = varint(at)
        found.append(at)
        match tag & 7:
            case 0:
                _, at = varint(at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, at = varint(at)
                found.append(at)
                if tag >> 3 in INNER.get(path, ()):
                    found += boundaries(data, at, at + size, (*path, tag >> 3))
                at += size
            case _:
                raise AssertionError(tag)
    return found


def test_truncated_at_every_field(tmp_path: Path) -> None:
    data = spec.read("bicubic-x2")[0]
    cuts = sorted(set(boundaries(data)))
    assert len(cuts) > 100
    accepted = 0
    for cut in cuts:
        (tmp_path / "m.onnx").write_bytes(data[:cut])
        try:
            with Engine(tmp_path / "m.onnx", provider="cpu"):
                accepted += 1
        except ModelError as error:
            assert str(error).startswith((str(tmp_path / "m.onnx"), "m: "))
    assert accepted < 12  # metadata at the end may be missing


def test_files_that_are_too_large_or_no_files(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(spec.LARGEST + 1)
    with pytest.raises(
        ModelError, match=f"{spec.LARGEST + 1} bytes, an ONNX file holds at most {spec.LARGEST}"
    ):
        spec.load(path)
    with path.open("wb") as file:
        file.truncate(spec.LARGEST)  # zeros: refused by the first byte, without reading the file
    assert all("not an ONNX model" in error for error in limited(path))
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in (tmp_path / "pipe.onnx", "/dev/zero"):
        with pytest.raises(ModelError, match="not a file, but a device or a pipe"):
            spec.load(name)
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(SourceMissingError, match="no such file"):
            spec.load(name)


def test_inspect_says_it_in_one_line(tmp_path: Path) -> None:
    made = convolution()
    external(made.graph.initializer[0], "/etc/passwd")
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-m", "srcnn_rt", "inspect", str(tmp_path / "m.onnx")],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'm.onnx'}: weight 'w' is kept in another file; save the model as one file"
    ]


def test_bundled_models_pass() -> None:
    assert spec.load(TEST_MODEL)[1].scale == 2
