"""Files with the image path inside, for other runtimes: what they hold, and where they are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from srcnn_rt import ArgumentError, Engine, ModelError, OutputError
from srcnn_rt.cli import main
from srcnn_rt.exporting import image_model
from srcnn_rt.models import image_graph, spec
from srcnn_rt.models.spec import ModelSpec
from tests.conftest import TEST_MODEL
from tests.helpers.image_graphs import Graph, assert_same, colour, image_of


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)
    return result.exit_code, result.output


@pytest.mark.parametrize("layout", image_model.LAYOUTS)
@pytest.mark.parametrize("io", image_model.TYPES)
def test_export_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: str, layout: str) -> None:
    monkeypatch.setitem(sys.modules, "srcnn_rt.exporting.checkpoint", None)
    monkeypatch.chdir(tmp_path)
    code, text = run("export", TEST_MODEL, "--io-dtype", io, "--layout", layout)
    assert code == 0, text
    name = f"{TEST_MODEL}-{layout}-{io}.onnx"
    assert text.startswith(f"{name}: {layout} images in {io}, 9-1-5, scale 2, margin 5 LR pixels, ")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    proto = onnx.load(name)
    meta = {p.key.removeprefix(spec.PREFIX): p.value for p in proto.metadata_props}
    assert (meta["io"], meta["layout"], meta["model"], meta["scale"]) == (io, layout, TEST_MODEL, "2")
    assert json.loads(meta["check"])["largest"] <= 1 / 255
    assert "range" not in meta
    described = image_model.LAYOUTS[layout]
    image = image_of((10, 13), described.channels, image_model.TYPES[io].type)
    with Engine(TEST_MODEL, provider="cpu") as engine:
        got = Graph(proto, engine.spec, described).run(image=image[None])[0]
        assert_same(got, engine.upscale(image), described, minimum=0.99)


def test_export_of_a_file_and_what_is_wrong_usage(tmp_path: Path) -> None:
    model = colour(tmp_path / "my.onnx", metadata=None)
    code, text = run("export", model, "--io-dtype", "u8", "--model-range", "0..255")
    assert code == 0, text
    assert (tmp_path / "my-rgb-u8.onnx").exists()
    code, text = run("export", model, "--io-dtype", "u8")
    assert code == 1
    assert "my-rgb-u8.onnx: already exists" in text
    assert run("export", model, "--io-dtype", "u8", "--overwrite")[0] == 0
    told = colour(tmp_path / "told.onnx", metadata={"srcnn_rt.range": "0..1"})
    code, text = run("export", told, "--io-dtype", "u8", "--model-range", "0..255")
    assert code == 1
    assert "told: its metadata declare the range 0..1, got 0..255" in text
    code, text = run("export", TEST_MODEL, "--io-dtype", "u8", "--model-range", "0..255")
    assert code == 1
    assert f"{TEST_MODEL} takes every range of values: it is equivariant; omit 0..255" in text
    code, text = run("export", model)
    assert code == 2
    assert "my.onnx is an ONNX model already; use --io-dtype to convert it" in text
    assert run("export", "a.pt", "--layout", "rgb")[0] == 2
    assert run("export", model, "--io-dtype", "u8", "--scale", "2")[0] == 2
    code, text = run("export", colour(tmp_path / "five.onnx", 5), "--io-dtype", "u8")
    assert code == 1
    assert "takes images of 5 channels, got rgb" in text
    code, text = run("export", tmp_path / "gone.onnx", "--io-dtype", "u8")
    assert code == 1
    assert "gone.onnx: no such file" in text


def test_such_a_file_is_no_model_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image_model.export("bicubic-x2", Path("b.onnx"), "u8", "gray")
    line = (
        "b.onnx: was written by srcnn-rt export --io-dtype u8 for other runtimes, and takes gray images "
        "itself; use the model that it was made of instead: bicubic-x2"
    )
    for whole in (False, True):
        with pytest.raises(ModelError) as caught:
            Engine("b.onnx", provider="cpu", tile=None if whole else 512)
        assert str(caught.value) == line
    for words in (["inspect", "b.onnx"], ["export", "b.onnx", "--io-dtype", "u16"]):
        code, text = run(*words)
        assert code == 1
        assert text == f"error: {line}\n"
    from PIL import Image

    Image.fromarray(image_of((5, 5), 3, np.uint8)).save("a.png")
    code, text = run("upscale", "a.png", "--model", "b.onnx")
    assert code == 1
    assert line in text


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = image_graph.build_image_graph

    def another(model: onnx.ModelProto, found: ModelSpec, *rest: object, **more: object) -> onnx.ModelProto:
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(array * np.float32(1.02), tensor.name))
        return real(model, found, *rest, **more)

    monkeypatch.setattr(image_graph, "build_image_graph", another)
    (tmp_path / "old.onnx").write_text("the old model")
    for name in ("m.onnx", "old.onnx"):
        for io in ("u8", "u16", "f32"):
            with pytest.raises(ModelError, match=r"\.onnx: not written: .* differs from the engine by"):
                image_model.export(TEST_MODEL, tmp_path / name, io, "rgba", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["old.onnx"]
    assert (tmp_path / "old.onnx").read_text() == "the old model"
    monkeypatch.undo()
    with pytest.raises(OutputError, match="cannot be written"):
        image_model.export(TEST_MODEL, tmp_path / "no" / "m.onnx", "u8", "gray")
    with pytest.raises(ArgumentError, match="io must be one of u8, u16, f32, got 'i8'"):
        image_model.export(TEST_MODEL, tmp_path / "m.onnx", "i8", "gray")
    with pytest.raises(ArgumentError, match="layout must be one of gray, graya, rgb, rgba, got 'bgr'"):
        image_model.export(TEST_MODEL, tmp_path / "m.onnx", "u8", "bgr")
