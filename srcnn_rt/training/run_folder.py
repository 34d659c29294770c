"""A run folder: ``run.json``, ``log.jsonl``, TensorBoard's events and one checkpoint, ``last.pt``."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._system.cpu import model_name
from .._system.safe_files import atomic_write
from .._version import __version__
from ..architectures import compact, compact_weights, srcnn
from ..architectures.compact import Compact
from ..architectures.networks import Network
from ..errors import ArgumentError, ModelError, OutputError, SourceMissingError
from ..models import spec
from .recipe import TrainConfig

CHECKPOINT = "last.pt"
RECORD = "run.json"
LOG = "log.jsonl"
EVENTS = "tensorboard"


class RunFolder:
    """The files of a training run.

    Parameters
    ----------
    path : Path
        The folder, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / CHECKPOINT
        self.log = path / LOG
        self._record = path / RECORD

    def create(self, config: TrainConfig, data: Mapping[str, Any]) -> None:
        """Create the folder and write ``run.json``.

        Parameters
        ----------
        config : TrainConfig
        data : mapping
            Names and SHA-256 of the images, as JSON values.

        Raises
        ------
        OutputError
            If the folder contains a run already or cannot be written.
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
            "machine": {"processor": model_name(), "threads": torch.get_num_threads()},
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_record(record)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _write_record(self, record: Mapping[str, Any]) -> None:
        with atomic_write(self._record) as file:
            file.write((json.dumps(record, indent=2) + "\n").encode())

    def refuse_a_second_run(self) -> None:
        """Raise `OutputError` if the folder contains a run."""
        if self._record.exists() or self.checkpoint.exists():
            raise OutputError(f"{self.path}: contains a run already; use --resume to continue it")

    def read(self) -> dict[str, Any]:
        """Return the content of ``run.json``, with a `TrainConfig` under ``"config"``.

        Raises
        ------
        SourceMissingError, ModelError
            If there is no run, or its record is damaged.
        """
        if not self._record.exists():
            raise SourceMissingError(f"{self._record}: no such file; the folder contains no run")
        try:
            record = json.loads(self._record.read_text())
            record["config"] = TrainConfig.read(record["config"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self._record}: not the record of a training run: {error}") from error
        return dict(record)

    def resume(self, config: TrainConfig, digest: str) -> None:
        """Check that a run can be resumed with the same images, and store its configuration.

        Raises
        ------
        SourceMissingError, ModelError
            See `read`.
        ArgumentError
            If the images have changed.
        """
        record = self.read()
        if record["data"]["sha256"] != digest:
            raise ArgumentError(f"{self.path}: the training images have changed since the run was started")
        if record["config"] != config:
            self._write_record(record | {"config": config.asdict()})

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint atomically."""
        try:
            with atomic_write(self.checkpoint) as file:
                torch.save(dict(state), file)
        except RuntimeError as error:  # torch's writer raises it on a full disk
            raise OutputError(f"{self.checkpoint}: cannot be written: {error}") from error

    def load(self) -> dict[str, Any] | None:
        """Return the checkpoint, or None if the run has not saved one yet."""
        if not self.checkpoint.exists():
            return None
        try:
            return dict(torch.load(self.checkpoint, map_location="cpu", weights_only=True))
        except Exception as error:
            raise ModelError(f"{self.checkpoint}: not a checkpoint: {error}") from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(dict(row)) + "\n")

    def truncate_log(self, step: int) -> None:
        """Remove the rows after `step`, which a resumed run writes again."""
        rows = [row for row in self.rows() if row["step"] <= step]
        with atomic_write(self.log) as file:
            file.writelines(f"{json.dumps(row)}\n".encode() for row in rows)

    def rows(self) -> list[dict[str, Any]]:
        """Return the log. A line that was cut short by a kill is ignored."""
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found


def initial_weights(source: str, network: Network) -> Mapping[str, torch.Tensor]:
    """Return the weights of a checkpoint or of a model of this package, adapted to a network.

    Raises
    ------
    SourceMissingError, ModelError
        If the source cannot be read.
    ArgumentError
        If its weights do not fit, see `srcnn.adapt` and `compact.adapt`.
    """
    from ..architectures.srcnn_weights import read_checkpoint, read_model

    if isinstance(network, Compact):
        old = compact_weights.read(source)
        try:
            return compact.adapt(old, network)
        except ValueError as error:
            raise ArgumentError(f"{source}: is {old.arch} with {old.channels} channels: {error}") from error
    found = read_model(source) if spec.is_model(source) else read_checkpoint(Path(source))
    try:
        return srcnn.adapt(found.weights, network)
    except ValueError as error:
        raise ArgumentError(f"{source}: is {found.arch} with {found.channels} channels: {error}") from error
