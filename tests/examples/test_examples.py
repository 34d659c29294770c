"""The other examples: they run, and what they give is right."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from srcnn_rt import Engine
from srcnn_rt.errors import CancelledError
from tests.conftest import drawing
from tests.helpers.reference import quantise

EXAMPLES = Path(__file__).parents[2] / "examples"
RGB = quantise(drawing(40, 50), np.uint8)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_every_example_says_how_it_is_run() -> None:
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text()
        assert text.startswith('"""')
        assert "pip install" in text.partition('"""\n\nfrom __future__')[0], path.name
        assert path.name in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_dataloader(example, tmp_path: Path, method: str) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    for k in range(5):
        Image.fromarray(RGB[: 20 + k]).save(tmp_path / f"{k}.png")
    loader = example("torch_dataloader").load(tmp_path, 2, method)
    with Engine("srcnn-915-x2", threads=1) as engine:
        for k, (small, large) in enumerate(loader):
            assert small.shape == (3, 20 + k, 50)
            expected = engine.upscale(RGB[: 20 + k])
            assert np.array_equal((large * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert k == 4


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (2, 3, 40, 50)])
def test_napari_layer(example, shape: tuple[int, ...]) -> None:
    """The new layer covers the same part of the world: pixels reach half a pixel around their centres."""
    rgb = shape[-1] == 3
    data = np.resize(RGB[:, :, 0] if not rgb else RGB, shape)
    axes = len(shape) - rgb
    scale, translate = np.arange(1.0, axes + 1), np.arange(10.0, axes + 10)
    described = {"name": "cells", "rgb": rgb, "scale": scale, "translate": translate, "colormap": "red"}
    with Engine("bicubic-x3", provider="cpu") as engine:
        made, said, kind = example("napari_upscale").upscaled_layer(engine, (data, described, "image"))
        plane = engine.upscale(data if rgb else data.reshape(-1, 40, 50)[-1])
    assert kind == "image"
    assert (said["name"], said["colormap"], said["rgb"]) == ("cells x3", "red", rgb)
    assert np.array_equal(made if rgb else made.reshape(-1, 120, 150)[-1], plane)
    for end in (-0.5, np.array(data.shape[:axes]) - 0.5):
        large = np.where(np.arange(axes) >= axes - 2, 3.0, 1.0)
        same = (np.asarray(end) + 0.5) * large - 0.5
        assert np.allclose(said["scale"] * same + said["translate"], scale * end + translate)
    with pytest.raises(ValueError, match="an image layer is needed, got points"):
        example("napari_upscale").upscaled_layer(engine, (data, described, "points"))


class Feedback:
    """The part of QgsProcessingFeedback that is used."""

    def __init__(self, cancel_at: float = 200) -> None:
        self.seen: list[float] = []
        self.said: list[str] = []
        self._cancel_at = cancel_at

    def setProgress(self, percent: float) -> None:  # noqa: N802
        self.seen.append(percent)

    def isCanceled(self) -> bool:  # noqa: N802
        return bool(self.seen) and self.seen[-1] >= self._cancel_at

    def pushInfo(self, text: str) -> None:  # noqa: N802
        self.said.append(text)

    pushWarning = pushInfo  # noqa: N815


def test_qgis_algorithm(example, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    profile = {
        "driver": "GTiff",
        "width": 1200,
        "height": 900,
        "count": 2,
        "dtype": "uint16",
        "crs": "EPSG:32633",
    }
    profile["transform"] = rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)
    samples = np.resize(quantise(drawing(90, 120, 2), np.uint16), (900, 1200, 2)).transpose(2, 0, 1)
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(samples)
    feedback = Feedback()
    module = example("qgis_upscale")
    module.upscale(str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), "bicubic-x2", True, feedback)
    assert feedback.seen == sorted(feedback.seen)
    assert feedback.seen[-1] == 100
    assert feedback.said[-1].startswith("2400 x 1800 pixels in ")
    with rasterio.open(tmp_path / "b.tif") as made:
        assert made.transform == rasterio.Affine(5, 0, 5e5, 0, -5, 4e6)
        assert made.crs.to_epsg() == 32633
    feedback = Feedback(cancel_at=1)
    with pytest.raises(CancelledError):
        module.upscale(str(tmp_path / "a.tif"), str(tmp_path / "c.tif"), "bicubic-x2", True, feedback)
    assert not (tmp_path / "c.tif").exists()
    assert feedback.seen[-1] < 100
    from srcnn_rt.models.bundled import bundled

    assert set(module.MODELS) <= set(bundled())


def test_qgis_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The class that QGIS loads, between stand-ins of the few QGIS classes that it uses."""
    asked: dict[str, object] = {}

    class Algorithm:
        def addParameter(self, parameter: tuple[str, object]) -> None:  # noqa: N802
            asked[parameter[0]] = parameter[1]

        def parameterAsRasterLayer(self, given: dict, name: str, _: object) -> SimpleNamespace:  # noqa: N802
            return SimpleNamespace(source=lambda: given[name])

        def parameterAsEnum(self, given: dict, name: str, _: object) -> object:  # noqa: N802
            return given[name]

        parameterAsOutputLayer = parameterAsBool = parameterAsEnum  # noqa: N815

    core = ModuleType("qgis.core")
    core.QgsProcessingAlgorithm = Algorithm
    core.QgsProcessingException = type("QgsProcessingException", (Exception,), {})
    for kind in ("Boolean", "Enum", "RasterDestination", "RasterLayer"):
        made = lambda name, *_, kind=kind, **__: (name, kind)  # noqa: E731
        setattr(core, f"QgsProcessingParameter{kind}", made)
    monkeypatch.setitem(sys.modules, "qgis", ModuleType("qgis"))
    monkeypatch.setitem(sys.modules, "qgis.core", core)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "qgis_upscale", raising=False)
    module = importlib.import_module("qgis_upscale")
    monkeypatch.delitem(sys.modules, "qgis_upscale")
    algorithm = module.Upscale().createInstance()
    algorithm.initAlgorithm()
    assert asked == {
        "INPUT": "RasterLayer",
        "MODEL": "Enum",
        "BANDS": "Boolean",
        "OUTPUT": "RasterDestination",
    }
    Image.fromarray(RGB).save(tmp_path / "a.tif")
    given = {"INPUT": str(tmp_path / "a.tif"), "MODEL": 1, "BANDS": False, "OUTPUT": str(tmp_path / "b.tif")}
    assert algorithm.processAlgorithm(given, None, Feedback()) == {"OUTPUT": str(tmp_path / "b.tif")}
    with Image.open(tmp_path / "b.tif") as image:
        assert image.size == (150, 120)  # the second model, x3
    with pytest.raises(core.QgsProcessingException, match=r"c\.tif: no such file"):
        algorithm.processAlgorithm({**given, "INPUT": str(tmp_path / "c.tif")}, None, Feedback())


# The fields of Triton's model_config.proto that are used, with their types.
TRITON = {
    "ModelConfig": {
        "name": "string", "backend": "string", "max_batch_size": "int32", "input": "*ModelInput",
        "output": "*ModelOutput", "dynamic_batching": "ModelDynamicBatching",
        "instance_group": "*ModelInstanceGroup",
    },
    "ModelInput": {"name": "string", "data_type": "DataType", "dims": "*int64"},
    "ModelOutput": {"name": "string", "data_type": "DataType", "dims": "*int64"},
    "ModelDynamicBatching": {"max_queue_delay_microseconds": "uint64"},
    "ModelInstanceGroup": {"count": "int32", "kind": "Kind"},
}  # fmt: skip
ENUMS = {
    "DataType": ["TYPE_INVALID", "TYPE_UINT8", "TYPE_UINT16", "TYPE_FP32"],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU"],
}


def triton_config(text: str):
    """Parse a configuration as Triton does: a field that it does not know is an error."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="inference", syntax="proto3")
    kinds = {
        f: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{f.upper()}")
        for f in ("string", "int32", "int64", "uint64")
    }
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in TRITON.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            made = message.field.add(name=field, number=number, label=3 if kind[0] == "*" else 1)
            kind = kind.lstrip("*")
            if kind in kinds:
                made.type = kinds[kind]
            else:
                made.type_name = f".inference.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()
    return text_format.Parse(text, config)


@pytest.mark.parametrize(("layout", "io", "type_"), [("rgb", "u8", "uint8"), ("gray", "u16", "uint16")])
def test_triton_repository(tmp_path: Path, layout: str, io: str, type_: str) -> None:
    """The configuration says what the model is, and the model computes what the engine computes."""
    words = [tmp_path, "--model", "bicubic-x2", "--layout", layout, "--io-dtype", io, "--batch", "4"]
    subprocess.run([sys.executable, EXAMPLES / "triton_repository.py", *map(str, words)], check=True)
    (folder,) = tmp_path.iterdir()
    config = triton_config((folder / "config.pbtxt").read_text())
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    assert config.name == folder.name
    assert config.max_batch_size == 4
    for said, has in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        (said,), (has,) = said, has
        assert said.name == has.name
        assert ENUMS["DataType"][said.data_type] == f"TYPE_{type_.upper()}"
        assert has.type == f"tensor({type_})"
        # Without the batch, and -1 for any size.
        assert [n if isinstance(n, int) else -1 for n in has.shape[1:]] == list(said.dims)
        assert not isinstance(has.shape[0], int)
    images = np.stack([quantise(drawing(30, 40, 3 if layout == "rgb" else 1, k), type_) for k in range(4)])
    (made,) = session.run(None, {config.input[0].name: images})
    with Engine("bicubic-x2", provider="cpu") as engine:
        for image, large in zip(images, made, strict=True):
            assert np.abs(large.astype(int) - engine.upscale(image)).max() <= 1
