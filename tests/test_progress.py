"""Bars of tqdm and rich as `progress`."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from srcnn_rt import Engine, RuntimeMissingError
from srcnn_rt.progress import rich_bar, tqdm_bar
from tests.conftest import TEST_MODEL


def test_a_bar_of_tqdm_ends_at_the_whole_of_each_image() -> None:
    pytest.importorskip("tqdm")
    shown = io.StringIO()
    with (
        Engine(TEST_MODEL, provider="cpu", tile=16) as engine,
        tqdm_bar("two images", file=shown, mininterval=0, ascii=True) as bar,
    ):
        for width in (50, 40):
            engine.upscale(np.zeros((40, width), np.uint8), progress=bar)
    text = shown.getvalue()
    assert "two images: 100%" in text and "8.00k/8.00k" in text and "6.40k/6.40k" in text


def test_a_bar_of_rich_alone_and_beside_others() -> None:
    progress = pytest.importorskip("rich.progress")
    console = pytest.importorskip("rich.console")
    shown = io.StringIO()
    with Engine(TEST_MODEL, provider="cpu", tile=16) as engine:
        image = np.zeros((40, 50), np.uint8)
        with rich_bar("one image", console=console.Console(file=shown, width=80)) as bar:
            engine.upscale(image, progress=bar)
        assert "one image" in shown.getvalue() and "100%" in shown.getvalue()
        with (
            progress.Progress(console=console.Console(file=io.StringIO())) as bars,
            rich_bar("a", bars) as bar,
        ):
            other = bars.add_task("somebody's own", total=3)
            engine.upscale(image, progress=bar)
            mine, theirs = bars.tasks
        assert (mine.description, mine.completed, mine.total, mine.finished) == ("a", 8000, 8000, True)
        assert (theirs.id, theirs.completed) == (other, 0)


@pytest.mark.parametrize(("bar", "name"), [(tqdm_bar, "tqdm"), (rich_bar, "rich")])
def test_a_missing_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, bar: type, name: str
) -> None:
    for module in (name, "tqdm.auto", "rich.progress"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeMissingError, match=rf'{name} is not installed; type: pip install "srcnn-rt\['):
        bar().__enter__()
