"""A run folder: ``run.json``, ``log.jsonl``, TensorBoard's events and one checkpoint, ``last.pt``."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..architectures.srcnn import SRCNN, adapt
from ..errors import ArgumentError, ModelError, OutputError, SourceMissingError
from ..models import spec
from .recipe import TrainConfig

CHECKPOINT = "last.pt"
RECORD = "run.json"
LOG = "log.jsonl"
EVENTS = "tensorboard"


class RunFolder:
    """Where one run keeps what it is and how far it got.

    Parameters
    ----------
    path : the folder
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / CHECKPOINT
        self.log = path / LOG
        self._record = path / RECORD

    def create(self, config: TrainConfig, data: Mapping[str, Any]) -> None:
        """Make the folder and write everything needed to repeat the run.

        Raises
        ------
        OutputError
            If it holds a run already, or cannot be written.
        """
        self.refuse_a_second_run()
        record = {
            "config": config.asdict(),
            "data": dict(data),
            "versions": {
                "srcnn-rt": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "machine": {"processor": _processor(), "threads": torch.get_num_threads()},
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _replace(self._record, (json.dumps(record, indent=2) + "\n").encode())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def refuse_a_second_run(self) -> None:
        """Raise `OutputError` if the folder holds a run."""
        if self._record.exists() or self.checkpoint.exists():
            raise OutputError(f"{self.path}: holds a run already; --resume continues it")

    def read(self) -> dict[str, Any]:
        """Return what `create` wrote.

        Raises
        ------
        SourceMissingError, ModelError
        """
        if not self._record.exists():
            raise SourceMissingError(f"{self._record}: no such file; there is no run to continue or to draw")
        try:
            record = json.loads(self._record.read_text())
            record["config"] = TrainConfig.read(record["config"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self._record}: not the record of a run: {error}") from error
        return dict(record)

    def resume(self, config: TrainConfig, digest: str) -> None:
        """Note a resumed run: the images must be the same, a changed length is kept.

        Raises
        ------
        SourceMissingError, ModelError
        ArgumentError
            If the images are others.
        """
        record = self.read()
        if record["data"]["sha256"] != digest:
            raise ArgumentError(f"{self.path}: other images than the run was started with")
        if record["config"] != config:
            record["config"] = config.asdict()
            _replace(self._record, (json.dumps(record, indent=2) + "\n").encode())

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, whole or not at all."""
        partial = self.checkpoint.with_name(CHECKPOINT + ".partial")
        try:
            torch.save(dict(state), partial)
            partial.replace(self.checkpoint)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
            raise OutputError(f"{self.checkpoint}: cannot be written: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Return the checkpoint, None if the run was stopped before its first."""
        if not self.checkpoint.exists():
            return None
        try:
            return dict(torch.load(self.checkpoint, map_location="cpu", weights_only=True))
        except Exception as error:
            raise ModelError(f"{self.checkpoint}: not a checkpoint: {error}") from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(dict(row)) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop what the log says of steps after `step`: a resumed run does them again."""
        rows = [row for row in self.rows() if row["step"] <= step]
        _replace(self.log, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def rows(self) -> list[dict[str, Any]]:
        """Return the log; a last line cut short by a kill is left out."""
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found


def starting_weights(start: str, network: SRCNN) -> Mapping[str, torch.Tensor]:
    """Return the weights of a checkpoint, or of a model of this package, to start from.

    Raises
    ------
    SourceMissingError, ModelError
    ArgumentError
        If they do not fit, see `model.adapt`.
    """
    from ..exporting.checkpoint import read_checkpoint, read_model

    found = read_model(start) if spec.is_model(start) else read_checkpoint(Path(start))
    try:
        return adapt(found.weights, network)
    except ValueError as error:
        raise ArgumentError(f"{start}: is {found.arch} with {found.channels} channels: {error}") from error


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
        return text.split("model name")[1].split(":")[1].split("\n")[0].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
