"""Sessions of ONNX Runtime on the CPU."""

from __future__ import annotations

import builtins
import sys
import types

import numpy as np
import pytest

from srcnn_rt import Engine, ModelError, RuntimeMissingError
from srcnn_rt._system.cpu import available_threads
from srcnn_rt.backends import onnxruntime
from srcnn_rt.backends.onnxruntime import Session
from srcnn_rt.image import bicubic

BICUBIC = bicubic.model(2).SerializeToString()


def test_cpu_runs() -> None:
    s = Session(BICUBIC, 1)
    assert (s.provider, s.threads) == ("cpu", 1)
    assert s.run(np.zeros((2, 1, 9, 8), np.float32)).shape == (2, 1, 10, 8)
    assert Session(BICUBIC).threads == available_threads()


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
        onnxruntime.runtime()


def test_a_failing_run_and_a_bad_model_are_one_line() -> None:
    with pytest.raises(ModelError, match="ONNX Runtime failed on windows of shape") as caught:
        Session(BICUBIC).run(np.zeros((1, 2, 9, 9), np.float32))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="cannot load the model"):
        Session(b"nothing")
