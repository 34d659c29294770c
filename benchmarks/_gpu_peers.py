"""The peers of gpu.py except torch: ONNX Runtime at its defaults, OpenCV, and peers with files."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from _gpu_case import Case, Contestant, as_codes, choose
from _gpu_place import Place
from _gpu_targets import FILE, ONNX
from _gpu_tiff import read_tiff, write_tiff
from _peers_contestants import windows
from numpy.typing import NDArray


class Windowed(Contestant):
    """A bare runtime. It takes float32 windows, cut before the clock starts, and assembles their cores."""

    def load(self, case: Case) -> None:
        self.start(case)
        self._model = case.model
        (gain,), (black,) = case.model.range.gain, case.model.range.offset
        self._gain, self._black = np.float32(gain), np.float32(black)
        self._out = np.zeros([n * case.model.scale for n in case.image.shape], np.float32)

        def take(side: int) -> None:
            self._side = side
            self.feed(case.image)

        self.notes["window"] = choose(case.sides, take, self.run, case.place)

    def feed(self, image: NDArray[np.uint8]) -> None:
        """Set another image of the same size; timed only on file routes."""
        cut_up = windows(image, self._model.scale, self._model.margin, self._side)
        self._windows = [(window * self._gain + self._black, place) for window, place in cut_up]

    def run(self) -> None:
        for window, place in self._windows:
            part = self._out[place]
            part[...] = self.infer(window).reshape(part.shape)

    def result(self) -> NDArray[np.uint8]:
        return as_codes((self._out - self._black) / self._gain)

    @abstractmethod
    def start(self, case: Case) -> None:
        """Load the model into the runtime."""

    @abstractmethod
    def infer(self, window: NDArray[np.float32]) -> NDArray[Any]:
        """Run the network once, from host memory to host memory."""


class OnnxRuntime(Windowed):
    """The graph as exported, run by ``session.run`` with every option at its default."""

    role = ONNX

    def __init__(self, place: Place) -> None:
        # use_tf32 is on by default.
        super().__init__("ONNX Runtime, defaults", "tf32" if place.provider == "cuda" else "float32")

    def start(self, case: Case) -> None:
        self._session = onnx_session(case)
        self._input = self._session.get_inputs()[0].name

    def infer(self, window: NDArray[np.float32]) -> NDArray[Any]:
        return self._session.run(None, {self._input: window})[0]

    @property
    def feeds(self) -> dict[str, NDArray[np.float32]]:
        """Inputs of one run of the session, for a profile."""
        return {self._input: self._windows[0][0]}


def onnx_session(case: Case, profile: Path | None = None) -> Any:
    """Return a session with default options that optionally writes a profile.

    Raises
    ------
    RuntimeError
        If the requested provider does not run and ONNX Runtime falls back to the CPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    wanted = "CUDAExecutionProvider" if case.place.provider == "cuda" else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise RuntimeError(f"the installed ONNX Runtime has no {wanted}")
    providers: list[Any] = [wanted]
    if case.place.provider == "cuda":
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        providers = [(wanted, {"device_id": str(case.place.index)}), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(case.data, options, providers=providers)
    if session.get_providers()[0] != wanted:
        raise RuntimeError(f"{wanted} did not start; ONNX Runtime fell back to {session.get_providers()[0]}")
    return session


class OpenCv(Windowed):
    """OpenCV's DNN module, on the GPU if this build supports it."""

    def __init__(self, place: Place) -> None:
        super().__init__("OpenCV DNN", place.reduced if place.provider == "cuda" else "float32")

    def start(self, case: Case) -> None:
        import cv2

        data, more = np.frombuffer(case.data, np.uint8), {}
        if case.place.provider == "cuda":
            targets = cv2.dnn.getAvailableTargets(cv2.dnn.DNN_BACKEND_CUDA)
            if cv2.dnn.DNN_TARGET_CUDA_FP16 not in targets:
                raise RuntimeError(f"this build of OpenCV ({cv2.__version__}) has no CUDA target")
            cv2.cuda.setDevice(case.place.index)
            # OpenCV 5's new engine has no CUDA; its classic engine has.
            if hasattr(cv2.dnn, "ENGINE_CLASSIC"):
                more["engine"] = cv2.dnn.ENGINE_CLASSIC
        self._net = cv2.dnn.readNetFromONNX(data, **more)
        if case.place.provider == "cuda":
            self._net.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)
            self._net.setPreferableTarget(cv2.dnn.DNN_TARGET_CUDA_FP16)

    def infer(self, window: NDArray[np.float32]) -> NDArray[Any]:
        self._net.setInput(window)
        return self._net.forward()


class Fed(Protocol):
    """A peer that starts from a host array, which can be replaced."""

    name: str
    precision: str
    ready: bool

    def feed(self, image: NDArray[np.uint8]) -> None: ...

    def run(self) -> None: ...

    def result(self) -> NDArray[np.uint8]: ...


class Filed(Contestant):
    """A peer that starts from host arrays, with GDAL reading and writing TIFFs on all threads."""

    route = FILE

    def __init__(self, inner: Fed) -> None:
        super().__init__(f"{inner.name}, files by GDAL", inner.precision)
        self._inner = inner

    def load(self, case: Case) -> None:
        if not self._inner.ready:
            raise RuntimeError(f"{self._inner.name} does not run here: see its own row")
        self._case = case
        self._target = case.source.with_name("peer.tif")

    def run(self) -> None:
        self._inner.feed(read_tiff(self._case.source))
        self._inner.run()
        self._case.place.wait()
        write_tiff(self._target, self._inner.result())

    def result(self) -> NDArray[np.uint8]:
        self.notes["MB"] = round(self._target.stat().st_size / 1e6, 1)
        return read_tiff(self._target)


def team(place: Place) -> list[Contestant]:
    """Return the peers that start from host arrays, and the file route of the first of them."""
    onnx = OnnxRuntime(place)
    return [onnx, OpenCv(place), Filed(onnx)]
