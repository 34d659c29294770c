"""srcnn-rt as a contestant of gpu.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from _gpu_case import Case, Contestant, as_codes
from _gpu_place import Place
from _gpu_targets import ARRAY, DEVICE, FILE, OURS
from _gpu_tiff import read_tiff
from numpy.typing import NDArray

from srcnn_rt import Engine

_SUFFIXES = {"tensor": "", "array": "", "into": ", into an array", "float32": ", from float32"}


class Ours:
    """An `Engine` that the routes of one precision share, created when the first of them loads."""

    def __init__(self, precision: str, place: Place, tune: bool) -> None:
        self.precision, self.place, self._tune = precision, place, tune
        self._made: Engine | None = None

    def start(self, case: Case) -> Engine:
        """Return the engine.

        Raises
        ------
        SrcnnError
            On every call, if the engine cannot be created here.
        """
        if self._made is None:
            # The CPU has no device number.
            more: dict[str, Any] = {"device": self.place.index} if self.place.provider == "cuda" else {}
            made = Engine(
                case.data, provider=self.place.provider, tile="auto", precision=self.precision, **more
            )
            if self._tune:
                made.tune()
            self._made = made
        return self._made

    @property
    def computes(self) -> str:
        """Data type of the computation."""
        return "float32" if self.precision == "exact" else self.place.reduced


class SrcnnRt(Contestant):
    """srcnn-rt through its public API, from an array to an array or from a tensor to a tensor.

    Parameters
    ----------
    engine : Ours
        The shared engine.
    kind : {"tensor", "array", "into", "float32"}
        "tensor" is uint8 on the GPU, "array" is uint8 in host memory, "into" writes into an existing uint8
        array, as the peers do, and "float32" is an array in [0, 1].
    """

    ours = True

    def __init__(self, engine: Ours, kind: str) -> None:
        super().__init__(f"srcnn-rt {engine.precision}{_SUFFIXES[kind]}", engine.computes)
        self._ours, self._kind = engine, kind
        self.route = DEVICE if kind == "tensor" else ARRAY
        # Without a GPU there is no fast precision to judge, so the mechanics are tested with exact.
        judged = "fast" if engine.place.provider == "cuda" else "exact"
        self.role = OURS if kind in ("tensor", "array") and engine.precision == judged else ""

    def load(self, case: Case) -> None:
        self._engine = self._ours.start(case)
        self.notes["tile"] = self._engine.tile
        self._source: Any = case.image
        if self._kind == "float32":
            self._source = case.image.astype(np.float32) / np.float32(255)
        elif self._kind == "into":
            self._out: Any = np.zeros([n * case.model.scale for n in case.image.shape], np.uint8)
        elif self._kind == "tensor" and case.place.provider == "cuda":
            import torch

            self._source = torch.from_numpy(case.image)[:, :, None].to(case.place.device)

    def run(self) -> None:
        if self._kind == "into":
            self._engine.upscale_into(self._source, self._out)
        else:
            self._out = self._engine.upscale(self._source)

    def result(self) -> NDArray[np.uint8]:
        if self._kind == "float32":
            return as_codes(self._out)
        out = self._out
        if not isinstance(out, np.ndarray):
            import torch

            # The result must lie on the device of the image; a copy through the host does not count.
            tensor = torch.from_dlpack(out)
            if tensor.device != self._source.device:
                raise ValueError(f"the result lies on {tensor.device}, not on {self._source.device}")
            out = tensor.cpu().numpy()
        return out.reshape(out.shape[:2])


class SrcnnRtFile(Contestant):
    """srcnn-rt from a TIFF to a TIFF."""

    ours = True
    route = FILE

    def __init__(self, engine: Ours) -> None:
        super().__init__(f"srcnn-rt {engine.precision}", engine.computes)
        self._ours = engine

    def load(self, case: Case) -> None:
        self._engine, self._case = self._ours.start(case), case
        self._target = case.source.with_name(f"ours-{self._ours.precision}.tif")

    def run(self) -> None:
        self._engine.upscale_file(self._case.source, self._target, overwrite=True)

    def result(self) -> NDArray[np.uint8]:
        self.notes["MB"] = round(self._target.stat().st_size / 1e6, 1)
        return read_tiff(self._target)


def team(place: Place, tune: bool) -> list[Contestant]:
    """Return srcnn-rt's contestants, the judged ones first."""
    fast, exact = (Ours(precision, place, tune) for precision in ("fast", "exact"))
    return [
        *(SrcnnRt(engine, kind) for engine in (fast, exact) for kind in ("tensor", "array")),
        SrcnnRt(fast, "into"),
        SrcnnRt(fast, "float32"),
        SrcnnRtFile(fast),
        SrcnnRtFile(exact),
    ]
