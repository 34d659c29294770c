"""Which runtime runs a program, and by how many workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import spec
from .errors import ModelError, ProviderError
from .program import Program
from .session import Network, Session
from .spec import ModelSpec

_TRIAL = 64  # side of the picture that tells an unbounded model's scale


@dataclass(frozen=True, slots=True)
class Setup:
    """A network, how many workers feed it, the threads each of their runs has, and their tile, LR pixels."""

    network: Network
    workers: int
    threads: int
    tile: int


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads a program into a runtime.

    Attributes
    ----------
    program : what is run
    provider, precision : as asked for; see `Engine`
    threads : in all
    whole : whether there is only ever one window
    """

    program: Program
    provider: str
    precision: str
    threads: int
    whole: bool

    def open(self, layout: tuple[int, int] | None = None) -> tuple[Network, int, int]:
        """Load it.

        Parameters
        ----------
        layout : (workers, threads of each); what suits the runtime if None

        Returns
        -------
        The network, how many workers keep it busy, and the threads of each.

        Raises
        ------
        ProviderError, ModelError, RuntimeMissingError
        """
        fast = self.precision == "fast"
        if self.provider == "openvino" or (fast and self.provider == "auto"):
            # Imported when asked for: it is an extra, and costs 0.3 s.
            from .session_openvino import OpenVinoSession

            # All threads compute one window while the other worker stitches the last and cuts the next.
            network = OpenVinoSession(self.program, self.threads, fast=fast)
            return network, 1 if self.whole else 2, self.threads
        if fast:
            raise ProviderError(f"precision fast is offered by provider openvino, not by {self.provider}")
        # One thread a worker: each computes a window of its own, and none waits for another.
        workers, each = layout or ((1, self.threads) if self.whole else (self.threads, 1))
        try:
            session = Session(self.program.data, self.provider, each)
        except ModelError as error:
            raise ModelError(f"{self.program.spec.name}: {error}") from error
        if session.provider != "cpu":  # a card runs one window at a time
            workers = 1
        return session, workers, each


def load_whole(model: str | Path | bytes) -> tuple[bytes, ModelSpec]:
    """Load a model that runs on whole pictures only: what cannot be analysed is tried out."""
    try:
        return spec.load(model)
    except ModelError:
        if isinstance(model, bytes):
            data, name = model, "model"
        else:
            data, name = spec.read(model)
    try:
        declared = spec.interface(data)
        size = (declared.height or _TRIAL, declared.width or _TRIAL)
        trial = np.zeros((declared.batch or 1, declared.channels, *size), np.float32)
        shape = Session(data).run(trial).shape
        if len(shape) != 4:
            raise ModelError(f"gives {shape} for {trial.shape}: a picture (N, C, H, W) is needed")
        out = shape[2:]
        if out[0] % size[0] or out[1] % size[1] or out[0] // size[0] != out[1] // size[1]:
            raise ModelError(f"gives {out} for {size}: the scale must be a whole number")
        return data, spec.unbounded(data, name, out[0] // size[0])
    except ModelError as error:
        raise ModelError(f"{name if isinstance(model, bytes) else model}: {error}") from error
