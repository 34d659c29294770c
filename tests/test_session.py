"""Providers: one asked for by name is used or refused, never silently replaced."""

from __future__ import annotations

import builtins
import sys
import types

import numpy as np
import pytest

from srcnn_rt import Engine, ModelError, ProviderError, RuntimeMissingError, bicubic, session
from srcnn_rt.session import Session

BICUBIC = bicubic.model(2).SerializeToString()


def test_cpu_runs() -> None:
    s = Session(BICUBIC, 1)
    assert (s.provider, s.threads) == ("cpu", 1)
    assert s.run(np.zeros((2, 1, 9, 8), np.float32)).shape == (2, 1, 10, 8)
    assert Session(BICUBIC).threads == session.available_threads()


def test_cuda_by_name_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "cuda_missing", lambda: "no NVIDIA driver is installed")
    with pytest.raises(ProviderError, match="provider cuda does not load: no NVIDIA driver is installed"):
        Session(BICUBIC, "cuda")
    assert Session(BICUBIC, "auto").provider == "cpu"


def test_cuda_that_silently_falls_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel with CUDA and a driver, but no cuDNN: the runtime gives a CPU session."""
    monkeypatch.setattr(session, "cuda_missing", lambda: None)
    monkeypatch.setattr(session, "_cuda_options", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(session, "_why_cuda_failed", lambda ort: "libcudnn.so.9 is missing")
    with pytest.raises(ProviderError, match=r"provider cuda does not load: libcudnn\.so\.9 is missing"):
        Session(BICUBIC, "cuda")
    with pytest.warns(RuntimeWarning, match=r"running on the CPU: libcudnn\.so\.9 is missing"):
        assert Session(BICUBIC, "auto").provider == "cpu"


def test_a_wheel_without_cuda_gives_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.runtime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    reason = session.cuda_missing()
    assert reason is not None
    assert 'pip install "srcnn-rt[gpu]"' in reason


def test_a_wheel_with_cuda_but_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.runtime(), "get_available_providers", lambda: ["CUDAExecutionProvider"])

    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(session.ctypes, "CDLL", no_library)
    assert session.cuda_missing() == "no NVIDIA driver is installed (libcuda does not load)"


def test_a_driver_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.runtime(), "get_available_providers", lambda: ["CUDAExecutionProvider"])
    driver = types.SimpleNamespace(cuInit=lambda flags: 100, cuDeviceGetCount=lambda count: 0)
    monkeypatch.setattr(session.ctypes, "CDLL", lambda name: driver)
    assert session.cuda_missing() == "the NVIDIA driver finds no device"


def test_a_missing_runtime_gives_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("onnxruntime"):
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeMissingError, match=r'pip install "srcnn-rt\[cpu\]"'):
        Engine("bicubic-x2")


def test_a_damaged_runtime_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(RuntimeMissingError, match="damaged"):
        session.runtime()


def test_a_failing_run_and_a_bad_model_are_one_line() -> None:
    with pytest.raises(ModelError, match="ONNX Runtime failed on windows of shape") as caught:
        Session(BICUBIC).run(np.zeros((1, 2, 9, 9), np.float32))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="cannot load the model"):
        Session(b"nothing")


@pytest.mark.gpu
def test_cuda_agrees_with_cpu() -> None:
    reason = session.cuda_missing()
    if reason:
        pytest.skip(reason)
    picture = np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    with Engine(provider="cuda", tile=128) as gpu, Engine(provider="cpu", tile=128) as cpu:
        assert gpu.provider == "cuda"
        difference = np.abs(gpu.upscale(picture).astype(int) - cpu.upscale(picture))
    assert difference.max() <= 1
