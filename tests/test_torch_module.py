"""`srcnn_rt.torch.Upscaler` as a module among others."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator

import numpy as np
import pytest

from srcnn_rt import ArgumentError, Engine
from tests.conftest import drawing
from tests.helpers.reference import quantise

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
Upscaler = pytest.importorskip("srcnn_rt.torch").Upscaler


@pytest.fixture(scope="module")
def module() -> Iterator[Upscaler]:
    made = Upscaler("srcnn-915-x2", provider="cpu", tile=32, threads=2)
    yield made
    made.engine.close()


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_each_image_equals_the_engine(module: Upscaler, channels: int, dtype: str) -> None:
    images = np.stack([drawing(30, 45, channels, k) for k in range(2)])
    images = quantise(images, np.uint8) if dtype == "uint8" else images.astype(dtype)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)  # of strides as decoders give them
    made = module(batch)
    assert made.shape == (2, channels, 60, 90)
    assert made.dtype == batch.dtype
    for image, large in zip(images, made, strict=True):
        expected = module.engine.upscale(image, alpha=False)
        assert np.array_equal(large.permute(1, 2, 0).numpy(), expected)
    assert torch.equal(module(batch[0]), made[0])


def test_options_of_samples() -> None:
    image = torch.from_numpy(drawing(20, 20, 4).astype(np.float32)).permute(2, 0, 1)
    with Engine("srcnn-915-x2", provider="cpu") as engine:
        with_alpha = Upscaler(engine, alpha=True)(image)
        expected = engine.upscale(image.permute(1, 2, 0).numpy(), alpha=True)
        assert np.array_equal(with_alpha.permute(1, 2, 0).numpy(), expected)
        bands = Upscaler(engine, bands=True)(image[:3])
        assert np.array_equal(bands[1].numpy(), engine.upscale(image[1].numpy()))
        with pytest.raises(
            ArgumentError, match="options go with the name of a model, got an engine and threads"
        ):
            Upscaler(engine, threads=2)


def test_rules(module: Upscaler) -> None:
    with pytest.raises(ArgumentError, match=r"images must be \(C, H, W\) or \(N, C, H, W\), got \(4, 4\)"):
        module(torch.zeros(4, 4))
    image = torch.zeros(3, 8, 8, requires_grad=True)
    with pytest.raises(ArgumentError, match="no gradients"):
        module(image)
    with torch.no_grad():
        assert not module(image).requires_grad
    assert not module(image.detach()).requires_grad
    with pytest.raises(ArgumentError, match="bfloat16"):
        module(torch.zeros(3, 8, 8, dtype=torch.bfloat16))
    assert module(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 16, 16)


def test_a_module_among_others(module: Upscaler) -> None:
    network = torch.nn.Sequential(module, torch.nn.AvgPool2d(2)).eval()
    image = torch.rand(1, 3, 20, 30)
    assert network(image).shape == image.shape
    assert module.state_dict() == {}
    assert "srcnn-915-x2, scale=2, provider='cpu'" in repr(network)
    assert torch.equal(torch.compile(network, backend="eager")(image), network(image))


def test_copies_compute_the_same(module: Upscaler) -> None:
    image = torch.rand(1, 3, 20, 30)
    expected = module(image)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for made in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert torch.equal(made(image), expected)
        made.engine.close()
