"""CUDA: a provider given by name is used or refused, never replaced silently. Some tests need a GPU."""

from __future__ import annotations

import ctypes
import types
import warnings
from typing import Any

import numpy as np
import pytest

from srcnn_rt import ArgumentError, Engine, ModelError, ProviderError
from srcnn_rt.backends import base, onnxruntime
from srcnn_rt.backends.cuda import devices as cuda
from srcnn_rt.backends.cuda import streams
from srcnn_rt.backends.cuda.devices import Gpu
from srcnn_rt.errors import DeviceError, OutOfMemoryError
from tests.helpers.devices import HostGpu, gpus

__all__ = ["gpus"]


class Driver:
    """A stand-in for libcuda."""

    def __init__(self, devices: int = 2, version: int = 13000, init: int = 0) -> None:
        self._devices, self._version, self._init = devices, version, init

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._init

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self._devices
        return 0

    def cuDriverGetVersion(self, value: Any) -> int:  # noqa: N802
        value._obj.value = self._version
        return 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:  # noqa: N802
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, handle: Any) -> int:  # noqa: N802
        name.value = f"GPU {handle.value}".encode()
        return 0

    def cuDeviceTotalMem(self, memory: Any, handle: Any) -> int:  # noqa: N802
        memory._obj.value = 8 * 2**30
        return 0

    cuDeviceTotalMem_v2 = cuDeviceTotalMem  # noqa: N815

    def cuDeviceGetAttribute(self, value: Any, key: int, handle: Any) -> int:  # noqa: N802
        value._obj.value = {16: 132, 75: 9, 76: 0}[key]
        return 0


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime with the properties of its CUDA 13 wheel."""
    ort = onnxruntime.runtime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(cuda, "_bindings", lambda: object())


def test_a_wheel_without_cuda_gives_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.runtime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    reason = cuda.missing()
    assert reason is not None
    assert 'pip install "srcnn-rt[gpu]"' in reason
    with pytest.raises(
        ProviderError, match="provider cuda does not load: the installed ONNX Runtime has no CUDA provider"
    ):
        Engine("bicubic-x2", provider="cuda")


def test_no_driver(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", no_library)
    assert cuda.missing() == "no NVIDIA driver is installed (libcuda does not load)"
    assert cuda.devices() == ()
    assert cuda.driver_version() is None


@pytest.mark.parametrize("driver", [Driver(init=100), Driver(devices=0)])
def test_a_driver_without_a_device(wheel: None, monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    assert cuda.missing() == "the NVIDIA driver finds no device"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cuda.missing() == "the NVIDIA driver finds no device (CUDA_VISIBLE_DEVICES is '')"


def test_a_driver_in_a_forked_child(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: Driver(init=3))  # CUDA_ERROR_NOT_INITIALIZED
    with pytest.raises(ProviderError, match="CUDA cannot be used in a process that was forked after CUDA"):
        Engine("bicubic-x2", provider="cuda")


def test_a_driver_that_is_too_old(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: Driver(version=12080))
    reason = cuda.missing()
    assert reason is not None
    assert "driver is for CUDA 12.8" in reason
    assert "needs CUDA 13.0; install a newer driver (580 or later)" in reason
    monkeypatch.setattr(cuda, "_driver", lambda: Driver(version=13020))
    assert cuda.missing() is None


def test_bindings_that_are_missing(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: Driver())
    monkeypatch.setattr(cuda, "_bindings", lambda: None)
    assert "NVIDIA's Python bindings are not installed" in str(cuda.missing())


def test_properties_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: Driver())
    assert cuda.devices() == (
        cuda.Device(0, "GPU 0", "9.0", 132, 8 * 2**30),
        cuda.Device(1, "GPU 1", "9.0", 132, 8 * 2**30),
    )
    assert cuda.driver_version() == "13.0"


def test_a_gpu_that_does_not_exist(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: Driver())
    with pytest.raises(ProviderError, match="there is no CUDA device 5; there are: 0, 1"):
        Gpu(5)


def test_auto_falls_back_and_warns_once(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is present but a part of CUDA is missing: silence would hide a fault."""
    monkeypatch.setattr(cuda, "_driver", lambda: Driver(version=12080))
    monkeypatch.setattr(cuda, "present", lambda: True)
    base.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="running on the CPU: .* install a newer driver"):
        assert Engine("bicubic-x2").provider == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Engine("bicubic-x2").provider == "cpu"


def test_auto_without_a_gpu_only_logs(
    wheel: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: None)
    base.warn_once.cache_clear()
    with caplog.at_level("INFO", "srcnn_rt"):
        assert Engine("bicubic-x2").provider == "cpu"
    (record,) = caplog.records
    assert record.levelname == "INFO" and "no NVIDIA driver is installed" in record.getMessage()


def test_cuda_that_silently_falls_back_is_noticed(
    gpus: list[HostGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CUDA and a driver but no cuDNN, ONNX Runtime returns a session on the CPU."""

    def check(session: Any) -> None:
        Gpu.check(gpus[0], session)  # type: ignore[arg-type]

    monkeypatch.setattr(gpus[0], "check", check)
    monkeypatch.setattr(cuda, "why_not_active", lambda ort: "libcudnn.so.9 is missing")
    monkeypatch.setattr(cuda, "present", lambda: True)
    base.warn_once.cache_clear()
    with pytest.raises(ProviderError, match=r"provider cuda does not load: libcudnn\.so\.9 is missing"):
        Engine("bicubic-x2", provider="cuda")
    with pytest.warns(RuntimeWarning, match=r"running on the CPU: .*libcudnn\.so\.9 is missing"):
        assert Engine("bicubic-x2").provider == "cpu"


def test_a_runtime_that_does_not_start(bindings: Bindings) -> None:
    bindings.errors["cudaSetDevice"] = 719
    with pytest.raises(ProviderError, match="cuda does not load: CUDA device 0: unspecified launch failure"):
        Engine("bicubic-x2", provider="cuda")


def test_part_of_a_model_on_the_cpu_gives_a_warning(
    gpus: list[HostGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, strict = streams.create, []

    def create(data: bytes, providers: list[Any], threads: int, config: Any = None) -> Any:
        strict.append(dict(config or {}))
        if config:
            raise ModelError(
                "This session contains graph nodes that are assigned to the default CPU EP, but "
                "fallback to CPU EP has been explicitly disabled by the user."
            )
        return real(data, providers, threads)

    monkeypatch.setattr(streams, "create", create)
    monkeypatch.setattr(HostGpu, "strict", Gpu.strict)
    base.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="part of the model cannot run on the GPU"):
        Engine("bicubic-x2", provider="cuda")
    assert strict == [{"session.disable_cpu_ep_fallback": "1"}, {}] * 2


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("CUDA device 0: out of memory"), ModelError("not this one")]
)
def test_a_gpu_that_cannot_load_the_model(
    gpus: list[HostGpu], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def acquire(*args: Any) -> None:
        raise error

    monkeypatch.setattr(streams.GpuNetwork, "acquire", acquire)
    monkeypatch.setattr(cuda, "present", lambda: True)
    base.warn_once.cache_clear()
    with pytest.raises((ProviderError, ModelError), match=str(error)):
        Engine("bicubic-x2", provider="cuda")
    with pytest.warns(RuntimeWarning, match=f"running on the CPU: .*{error}"):
        assert Engine("bicubic-x2").provider == "cpu"


def test_exact_is_checked_on_every_gpu(gpus: list[HostGpu], monkeypatch: pytest.MonkeyPatch) -> None:
    checked, real = [], streams.GpuNetwork.runner

    def runner(this: Any) -> Any:
        checked.append(this.gpu.index)
        return real(this)

    monkeypatch.setattr(streams.GpuNetwork, "runner", runner)
    Engine("bicubic-x2", provider="cuda", device=(2, 0)).close()
    assert checked == [2, 0]


def test_a_device_is_a_gpu(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: None)
    with pytest.raises(ProviderError, match="no NVIDIA driver"):
        Engine("bicubic-x2", device=0)  # with a device, auto means cuda
    for provider in ("cpu", "openvino"):
        with pytest.raises(ArgumentError, match=f"device goes with provider cuda, got {provider}"):
            Engine("bicubic-x2", provider=provider, device=0)


def test_the_message_of_the_dynamic_linker_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError("libcublasLt.so.13: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", load)
    message = cuda.why_not_active(onnxruntime.runtime())
    assert message.startswith(
        "libcublasLt.so.13: cannot open shared object file; CUDA 13 and cuDNN 9 come with"
    )


class Bindings:
    """A stand-in for NVIDIA's Python bindings that records calls and returns given errors."""

    cudaStreamNonBlocking = cudaHostAllocPortable = 1  # noqa: N815
    cudaMemcpyKind = types.SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaError_t = types.SimpleNamespace(cudaErrorMemoryAllocation=2)  # noqa: N815

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.errors: dict[str, int] = {}
        self.device, self.devices = 5, []
        self._held: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            self.calls.append((name, *args))
            if name == "cudaGetErrorString":
                return 0, b"unspecified launch failure" if args[0] == 719 else b"out of memory"
            if name in self.errors:
                return (self.errors[name], None)
            if name == "cudaGetDevice":
                return 0, self.device
            if name == "cudaSetDevice":
                self.device = args[0]
                return (0,)
            self.devices.append(self.device)
            if name in ("cudaHostAlloc", "cudaMalloc"):
                self._held.append((ctypes.c_uint8 * args[0])())
                return 0, ctypes.addressof(self._held[-1])
            return (0, 77) if name == "cudaStreamCreateWithFlags" else (0,)

        return call


@pytest.fixture
def bindings(wheel: None, monkeypatch: pytest.MonkeyPatch) -> Bindings:
    made = Bindings()
    monkeypatch.setattr(cuda, "_driver", lambda: Driver())
    monkeypatch.setattr(cuda, "_bindings", lambda: made)
    return made


def test_calls_of_the_cuda_runtime(bindings: Bindings) -> None:
    gpu = Gpu(1)
    assert gpu.multiprocessors == 132
    held = gpu.stream()
    stream = held.handle
    host, there = gpu.allocate_pinned(12), gpu.allocate(12)
    gpu.copy_to_device(there.pointer, host, stream)
    gpu.copy_to_host(host, there.pointer, stream)
    gpu.copy_2d(1000, 64, 2000, 32, (5, 16), stream)
    gpu.synchronize(stream)
    made = [c for c in bindings.calls if c[0] not in ("cudaGetDevice", "cudaSetDevice")]
    assert made == [
        ("cudaStreamCreateWithFlags", 1),
        ("cudaHostAlloc", 12, 1),
        ("cudaMalloc", 12),
        ("cudaMemcpyAsync", there.pointer, host.ctypes.data, 12, 1, 77),
        ("cudaMemcpyAsync", host.ctypes.data, there.pointer, 12, 2, 77),
        ("cudaMemcpy2DAsync", 1000, 64, 2000, 32, 16, 5, 3, 77),
        ("cudaStreamSynchronize", 77),
    ]
    # Every call uses its own GPU and then restores the device that was current, here 5.
    assert bindings.device == 5
    assert all(device == 1 for device in bindings.devices)
    del held
    assert bindings.calls[-1] == ("cudaStreamDestroy", 77)
    ((name, options),) = gpu.providers(stream, {"use_tf32": "0"})
    assert name == "CUDAExecutionProvider"
    assert options == {
        "use_tf32": "0",
        "device_id": "1",
        "has_user_compute_stream": "1",
        "user_compute_stream": "77",
    }
    assert gpu.holds((2, 1))
    assert not gpu.holds((2, 0))
    assert not gpu.holds((1, 1))


def test_memory_is_freed(bindings: Bindings) -> None:
    gpu = Gpu(0)
    there, host = gpu.allocate(8), gpu.allocate_pinned(8)
    pointers = there.pointer, host.ctypes.data
    part = host[2:]
    del there, host
    names = [c[:2] for c in bindings.calls]
    assert ("cudaFree", pointers[0]) in names
    assert ("cudaFreeHost", pointers[1]) not in names  # a view still exists
    del part
    assert ("cudaFreeHost", pointers[1]) in [c[:2] for c in bindings.calls]


def test_cuda_errors(bindings: Bindings) -> None:
    gpu = Gpu(0)
    bindings.errors["cudaMalloc"] = 2
    with pytest.raises(OutOfMemoryError, match="CUDA device 0: out of memory"):
        gpu.allocate(10)
    bindings.errors["cudaStreamSynchronize"] = 719
    with pytest.raises(DeviceError, match="CUDA device 0: unspecified launch failure"):
        gpu.synchronize(77)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Failed to allocate memory for requested buffer of size 12", OutOfMemoryError),
        ("CUDNN_STATUS_ALLOC_FAILED", OutOfMemoryError),
        ("CUDA failure 2: out of memory", OutOfMemoryError),
        ("CUDA failure 719: unspecified launch failure ; GPU=0", DeviceError),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED", DeviceError),
        ("CUBLAS error: 13", DeviceError),
        ("Available memory of 512 is smaller than requested bytes of 1024", OutOfMemoryError),
        ("CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED", ModelError),
    ],
)
def test_messages_of_runtimes_are_classified(text: str, kind: type[Exception]) -> None:
    assert type(base.failure("ONNX Runtime", (1, 2), RuntimeError(text))) is kind


# Tests that need a GPU


@pytest.fixture
def real() -> None:
    reason = cuda.missing()
    if reason:
        pytest.skip(reason)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_cuda_agrees_with_the_cpu(real: None, rng: np.random.Generator, channels: int, dtype: str) -> None:
    image = rng.random((300, 200, channels), np.float32)
    if dtype != "float32":
        image = (image * np.iinfo(dtype).max).astype(dtype)
    with Engine(provider="cuda", tile=128) as gpu, Engine(provider="cpu", tile=128) as cpu:
        assert gpu.provider == "cuda"
        a, b = gpu.upscale(image).astype(np.float64), cpu.upscale(image).astype(np.float64)
    limit = 1e-4 if dtype == "float32" else 1
    assert np.abs(a - b).max() <= limit


@pytest.mark.gpu
def test_no_node_of_the_image_path_falls_back_to_the_cpu(real: None) -> None:
    """Without the strict configuration ONNX Runtime copies to the host and back silently."""
    import torch

    image = torch.zeros(500, 400, 3, dtype=torch.uint8, device="cuda")
    with Engine(provider="cuda") as engine:
        made = engine.upscale(image)
    assert made.device == image.device
    assert made.shape == (1000, 800, 3)
