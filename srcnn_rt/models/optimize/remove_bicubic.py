"""The network of a model that is added to the bicubic image, without the bicubic.

``hr = network(lr) + bicubic(lr)``, cropped to one size, is the form of this package's own models. Only the
network runs, which the other rewrites recognise as a chain of layers. The tiler enlarges the image itself, in
float32 whatever the type of the network, and adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...image import bicubic
from ..onnx_helpers import attribute
from .graph_edit import Conv, Edit, channels
from .subpixel_phases import crop_of

if TYPE_CHECKING:
    from onnx import ModelProto

_TOLERANCE = 1e-7  # of the weights of bicubic


def without_bicubic(model: ModelProto, scale: int) -> ModelProto | None:
    """Return the network that a model adds to MATLAB's bicubic, None if it is not such a model.

    At scale 1 the network is added to the image itself. The widths of crops need not be checked: the sum
    exists only if the output of the network has the size of the cropped image.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    scale : int
        Scale factor.
    """
    edit = Edit(model)
    if len(edit.outputs) != 1 or len(edit.inputs) != 1:
        return None
    (target,) = edit.outputs
    total = edit.maker(target)
    if total is None or total.op_type != "Add" or len(edit.users(target)):
        return None
    counts = channels(model)
    for k in (0, 1):
        inner, image = total.input[k], total.input[1 - k]
        made = edit.maker(inner)
        if made is None or edit.only_user(inner) is None or not _is_bicubic(edit, image, scale):
            continue
        if counts.get(inner) is None or counts[inner] != counts.get(image):
            continue  # e.g. one channel that is added to three
        edit.replace([total], [])
        edit.rename_output(made, inner, target)
        return edit.model()
    return None


def _is_bicubic(edit: Edit, name: str, scale: int) -> bool:
    """Return whether a tensor is the image, enlarged by bicubic and cropped alike on all sides."""
    name = _before_crops(edit, name)
    if scale == 1:
        return name in edit.inputs
    node = edit.maker(name)
    if node is None or node.op_type != "DepthToSpace" or attribute(node, "blocksize") != scale:
        return False
    conv = Conv.of(edit, edit.maker(node.input[0]))
    if conv is None or any(conv.pads) or _before_crops(edit, conv.node.input[0]) not in edit.inputs:
        return False
    channels = len(conv.weight) // scale**2
    wanted = bicubic.weights(scale, channels)
    return (
        attribute(node, "mode", b"DCR") == b"CRD"
        and conv.group == channels
        and conv.weight.shape == wanted.shape
        and not np.any(conv.bias)
        and bool(np.abs(conv.weight - wanted).max() <= _TOLERANCE)
    )


def _before_crops(edit: Edit, name: str) -> str:
    """Return the tensor that a tensor was cropped from by the same width on all sides, or itself."""
    while (node := edit.maker(name)) is not None and node.op_type == "Slice":
        crop = crop_of(edit, node)
        if crop is None or len(set(crop)) > 1:
            break
        name = node.input[0]
    return name
