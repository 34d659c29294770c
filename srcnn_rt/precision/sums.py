"""Where a network's last sums are made."""

from __future__ import annotations

from dataclasses import dataclass

from ..rewrite.edit import Conv, Edit, attribute


@dataclass(frozen=True, slots=True)
class LastSums:
    """The convolution whose sums become the picture.

    Attributes
    ----------
    conv : the first of them, where several are added up
    block : side of the blocks of pixels it makes at once, 1 where no DepthToSpace follows
    places_first : whether its channels go by their places in a block, not by the output's channels
        (DepthToSpace's DCR)
    alone : whether nothing but convolutions is added to it
    """

    conv: Conv
    block: int
    places_first: bool
    alone: bool


def last_sums(edit: Edit) -> LastSums | None:
    """Return it; None where the output comes from something else."""
    (target,) = edit.outputs
    block, name, places_first, alone = 1, target, False, True
    shuffle = edit.maker(name)
    if shuffle is not None and shuffle.op_type == "DepthToSpace":
        block, name = attribute(shuffle, "blocksize"), shuffle.input[0]
        places_first = attribute(shuffle, "mode", b"DCR") == b"DCR"
    node = edit.maker(name)
    while node is not None and node.op_type == "Add":  # of a sum over phases, one that nothing else reads
        own = (n for n in node.input if edit.only_user(n) is node and list(node.input).count(n) == 1)
        name = next(own, "")
        others = (edit.maker(n) for n in node.input if n != name)
        alone = alone and all(n is not None and n.op_type == "Conv" for n in others)
        node = edit.maker(name)
    conv = Conv.of(edit, node)
    return None if conv is None else LastSums(conv, block, places_first, alone)
