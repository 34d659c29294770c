"""ONNX export of padded networks by PyTorch, with variable height and width."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import nn

from ..errors import ModelError


def export_dynamo(network: nn.Module, channels: int, *, side: int = 15) -> ModelProto:
    """Export a network by `torch.export`, with a variable batch size.

    Parameters
    ----------
    network : Module
        Maps (N, C, H, W) to (N, C, s·H, s·W).
    channels : int
    side : int
        Side of the example image, a size that the network accepts.

    Raises
    ------
    ModelError
        If torch cannot export the network.
    """
    dim = torch.export.Dim
    sizes = {0: dim("n"), 2: dim("h", min=2), 3: dim("w", min=2)}
    with _exporting():
        program = torch.onnx.export(
            network,
            (torch.rand(2, channels, side, 3 * side),),
            dynamo=True,
            dynamic_shapes=(sizes,),
            input_names=["lr"],
            output_names=["hr"],
            verbose=False,
        )
        assert program is not None
        onnx.checker.check_model(program.model_proto)
        return program.model_proto


def export_torchscript(network: nn.Module, channels: int, *, side: int = 15) -> ModelProto:
    """Export a network by tracing, for batches of one image. Supports networks that `export_dynamo` does not.

    Sizes that tracing turns into constants are detected by the comparison with torch.

    Parameters and errors are those of `export_dynamo`.
    """
    with _exporting(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            (torch.rand(1, channels, side, 3 * side),),
            file,
            dynamo=False,
            dynamic_axes={"lr": {2: "h", 3: "w"}, "hr": {2: "sh", 3: "sw"}},
            input_names=["lr"],
            output_names=["hr"],
        )
        proto = onnx.load(file)
        onnx.checker.check_model(proto)
        return proto


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """Suppress the output of torch's exporters, and translate their errors."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside torch
            yield
    except Exception as error:  # the exporters raise errors of a dozen packages
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"torch cannot export it to ONNX: {first}") from error
