"""The contestants of peers.py: srcnn-rt, and every runtime that can run the same ONNX model.

Packages are imported in ``load``, so that a missing one removes only its own contestant.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srcnn_rt import Engine, ModelSpec

WEIGHTS = tuple(f"conv{k}.weight" for k in (1, 2, 3))
BIASES = tuple(f"conv{k}.bias" for k in (1, 2, 3))  # the paper's form only
WINDOW_HR = 512  # side of the peers' windows, HR pixels


class Contestant(ABC):
    """Something that upscales gray images with one model.

    Attributes
    ----------
    name : str
        Unique name in tables.
    family : str
        The runtime; contestants of one family share a colour.
    reduced : bool
        Whether it computes in less than float32.
    ours : bool
        Whether it is srcnn-rt.
    """

    ours = False

    def __init__(self, name: str, family: str, *, reduced: bool = False) -> None:
        self.name, self.family, self.reduced = name, family, reduced

    @abstractmethod
    def load(self, data: bytes, model: ModelSpec, threads: int) -> None:
        """Load a model's bytes. Any exception means that the contestant cannot run here."""

    @abstractmethod
    def prepare(self, image: NDArray[np.uint8]) -> None:
        """Set the (H, W) image for `upscale`; not timed."""

    @abstractmethod
    def upscale(self) -> NDArray[Any]:
        """Return the upscaled image, (s·H, s·W), as uint8, or as float32 in [0, 1] and not clipped."""


class SrcnnRt(Contestant):
    """This package through its public API. Extraction, network, stitching and rounding are all timed."""

    ours = True

    def __init__(self, name: str, provider: str) -> None:
        super().__init__(name, "srcnn-rt")
        self._provider = provider

    def load(self, data: bytes, model: ModelSpec, threads: int) -> None:
        self._engine = Engine(data, provider=self._provider, tile="auto", threads=threads)

    def prepare(self, image: NDArray[np.uint8]) -> None:
        self._image = image

    def upscale(self) -> NDArray[Any]:
        return self._engine.upscale(self._image)


class Peer(Contestant):
    """A bare runtime. Only its runs on float32 windows and the assembly of their cores are timed.

    Windows are scaled to the model's value range, and results are scaled back.
    """

    def load(self, data: bytes, model: ModelSpec, threads: int) -> None:
        self._scale, self._margin = model.scale, model.margin
        (self._gain,), (self._offset,) = model.range.gain, model.range.offset
        self.start(data, model, threads)

    def prepare(self, image: NDArray[np.uint8]) -> None:
        gain, offset = np.float32(self._gain), np.float32(self._offset)
        cut_up = windows(image, self._scale, self._margin)
        self._windows = [(window * gain + offset, place) for window, place in cut_up]
        self._out = np.empty([n * self._scale for n in image.shape], np.float32)

    def upscale(self) -> NDArray[Any]:
        for window, place in self._windows:
            part = self._out[place]
            part[...] = self.run(window).reshape(part.shape)
        if (self._gain, self._offset) != (1, 0):
            self._out -= np.float32(self._offset)
            self._out /= np.float32(self._gain)
        return self._out

    @abstractmethod
    def start(self, data: bytes, model: ModelSpec, threads: int) -> None:
        """Load the model into the runtime."""

    @abstractmethod
    def run(self, window: NDArray[np.float32]) -> NDArray[Any]:
        """Run the network once: (1, 1, h + 2m, w + 2m) in, s·h by s·w pixels out."""


def windows(
    image: NDArray[np.uint8], scale: int, margin: int, maximum: int = WINDOW_HR
) -> list[tuple[NDArray[np.float32], tuple[slice, slice]]]:
    """Cut an image into windows of one shape, at most `maximum` HR pixels per side without the margins.

    The last window of an axis is shifted inward and overlaps its neighbour. This costs a peer nothing for the
    default sizes, which divide evenly, and little otherwise.

    Returns
    -------
    list of (ndarray, (slice, slice))
        Contiguous (1, 1, h + 2m, w + 2m) windows in [0, 1], mirrored at the image's edges, and the HR
        rectangle of each.
    """
    padded = np.pad(image.astype(np.float32) / np.float32(255), margin, mode="symmetric")
    (h, ys), (w, xs) = (cut(length, maximum // scale) for length in image.shape)
    return [
        (
            np.ascontiguousarray(padded[y : y + h + 2 * margin, x : x + w + 2 * margin])[None, None],
            (slice(y * scale, (y + h) * scale), slice(x * scale, (x + w) * scale)),
        )
        for y in ys
        for x in xs
    ]


def cut(length: int, maximum: int) -> tuple[int, list[int]]:
    """Return the size and the starts of the fewest equal parts of `length` of at most `maximum`."""
    count = math.ceil(length / maximum)
    size = math.ceil(length / count)
    return size, [min(k * size, length - size) for k in range(count)]


class OnnxRuntime(Peer):
    """The graph as exported, with ONNX Runtime's defaults."""

    def start(self, data: bytes, model: ModelSpec, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def run(self, window: NDArray[np.float32]) -> NDArray[Any]:
        return self._session.run(None, {self._input: window})[0]


class OpenVino(Peer):
    """The graph as exported, one stream on all threads."""

    def start(self, data: bytes, model: ModelSpec, threads: int) -> None:
        import openvino

        wanted = "bf16" if self.reduced else "f32"
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(data),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": wanted,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        # The hint is not binding: a CPU without bfloat16 computes in float32.
        got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if got != wanted:
            raise RuntimeError(f"requested {wanted}, but OpenVINO runs in {got} on this CPU")
        self._request = compiled.create_infer_request()

    def run(self, window: NDArray[np.float32]) -> NDArray[Any]:
        return self._request.infer([window], share_inputs=True, share_outputs=True)[0]


class OpenCv(Peer):
    """OpenCV's DNN module."""

    def start(self, data: bytes, model: ModelSpec, threads: int) -> None:
        import cv2

        cv2.setNumThreads(threads)
        self._net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))

    def run(self, window: NDArray[np.float32]) -> NDArray[Any]:
        self._net.setInput(window)
        return self._net.forward()


class Torch(Peer):
    """The trained module, with the weights of the graph.

    bfloat16 is autocast: bicubic stays float32, which is more accurate and not slower than the whole module
    in bfloat16. When compiled, weights are frozen, or they would be converted again in each run.
    """

    def __init__(self, name: str, *, last: bool = False, compiled: bool = False, bf16: bool = False) -> None:
        super().__init__(name, "torch", reduced=bf16)
        self._last, self._compiled = last, compiled

    def start(self, data: bytes, model: ModelSpec, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._format = torch.channels_last if self._last else torch.contiguous_format
        self._module: Any = torch_module(data, model).to(memory_format=self._format)
        if self._compiled:
            torch._dynamo.reset()  # code compiled for the previous model counts against a limit
            self._module = torch.compile(self._module, dynamic=False, options={"freezing": True})

    def run(self, window: NDArray[np.float32]) -> NDArray[Any]:
        import torch

        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.reduced):
            lr = torch.from_numpy(window).contiguous(memory_format=self._format)
            return self._module(lr).float().numpy()


class Ncnn(Peer):
    """The graph as ncnn layers, written by hand, with ReLUs fused as in ncnn's converter."""

    def start(self, data: bytes, model: ModelSpec, threads: int) -> None:
        import ncnn

        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = options.use_bf16_packed = self.reduced
        layers, weights = ncnn_model(data, model)
        if self._net.load_param_mem(layers) != 0:
            raise RuntimeError("ncnn refused the layers")
        self._net.load_model_mem(weights)

    def run(self, window: NDArray[np.float32]) -> NDArray[Any]:
        import ncnn

        extractor = self._net.create_extractor()
        extractor.input("lr", ncnn.Mat(window[0]))
        failed, hr = extractor.extract("hr")
        if failed:
            raise RuntimeError(f"ncnn failed with {failed}")
        return np.array(hr)


def torch_module(data: bytes, model: ModelSpec) -> Any:
    """Return the torch module of the model contract with a graph's weights."""
    import torch

    from srcnn_rt.architectures.srcnn import SRCNN
    from srcnn_rt.exporting.checkpoint import Upscaler

    weights = initialisers(data)
    biased = set(BIASES) <= set(weights)
    network = SRCNN(model.architecture, init="paper", form="paper" if biased else "equivariant")
    names = (*WEIGHTS, *BIASES) if biased else WEIGHTS
    network.load_state_dict({k: torch.tensor(weights[k]) for k in names})
    return Upscaler(network, model.scale).eval()


def ncnn_model(data: bytes, model: ModelSpec) -> tuple[str, bytes]:
    """Return ncnn's two files for an SRCNN: the layers as text and the weights."""
    weights, s = initialisers(data), model.scale
    biased = set(BIASES) <= set(weights)
    lines = ["Input lr 0 1 lr"]
    blob, blobs = b"", 1
    last = "lr"

    def add(kind: str, name: str, parameters: str) -> None:
        nonlocal last, blobs
        lines.append(f"{kind} {name} 1 1 {last} {name} {parameters}")
        last, blobs = name, blobs + 1

    def crop(name: str, cut: int) -> None:
        # Keys of arrays are -23300 minus the key: starts, ends and axes (the last two of three).
        add("Crop", name, f"-23309=2,{cut},{cut} -23310=2,{-cut},{-cut} -23311=2,1,2")

    def convolve(name: str, kernel: str, bias: str | None, relu: bool) -> None:
        nonlocal blob
        w = weights[kernel]
        add(
            "Convolution",
            name,
            f"0={w.shape[0]} 1={w.shape[2]} 5={int(bias is not None)} 6={w.size} 9={+relu}",
        )
        blob += bytes(4) + w.tobytes()  # four zero bytes mark plain float32 data
        blob += b"" if bias is None else weights[bias].tobytes()

    convolve("bicubic", "bicubic.weight", None, relu=False)
    add("PixelShuffle", "up", f"0={s}")
    if "crop.starts" in weights:
        crop("crop", int(weights["crop.starts"][0]))
    if not biased:  # the image bypasses the layers
        lines.append(f"Split both 1 2 {last} fed image")
        last, blobs = "fed", blobs + 2
    for k, name in enumerate(("conv1", "conv2", "hr" if biased else "conv3"), start=1):
        convolve(name, f"conv{k}.weight", f"conv{k}.bias" if biased else None, relu=k < 3)
    if not biased:
        detail, last = last, "image"
        crop("inner", int(weights["inner.starts"][0]))
        lines.append(f"BinaryOp hr 2 1 {detail} {last} hr 0=0")
        blobs += 1
    header = f"7767517\n{len(lines)} {blobs}\n"  # magic number; counts of layers and blobs
    return header + "\n".join(lines) + "\n", blob


def initialisers(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a graph by name."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(data).graph
    return {i.name: numpy_helper.to_array(i) for i in graph.initializer}


def contestants() -> list[Contestant]:
    """Return new contestants that are not loaded yet."""
    return [
        SrcnnRt("srcnn-rt exact", "native"),
        SrcnnRt("srcnn-rt exact, ONNX Runtime", "cpu"),
        SrcnnRt("srcnn-rt exact, OpenVINO", "openvino"),
        OnnxRuntime("ONNX Runtime", "ONNX Runtime"),
        OpenVino("OpenVINO f32", "OpenVINO"),
        OpenVino("OpenVINO bf16", "OpenVINO", reduced=True),
        Torch("torch eager"),
        Torch("torch channels_last", last=True),
        Torch("torch bf16", last=True, bf16=True),
        Torch("torch.compile", last=True, compiled=True),
        Torch("torch.compile bf16", last=True, compiled=True, bf16=True),
        OpenCv("OpenCV DNN", "OpenCV"),
        Ncnn("ncnn f32", "ncnn"),
        Ncnn("ncnn bf16", "ncnn", reduced=True),
    ]
