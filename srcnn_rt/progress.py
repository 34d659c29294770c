"""Progress bars for the argument `progress`: of tqdm and of rich, which the extra ``progress`` installs.

>>> from srcnn_rt.progress import tqdm_bar
>>> with tqdm_bar("big.tif") as bar:  # doctest: +SKIP
...     engine.upscale_file("big.tif", "big_x2.tif", progress=bar)

Both count HR pixels, and a bar may be used for several images one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import RuntimeMissingError
from .execution.executor import Progress

if TYPE_CHECKING:
    import rich.progress

__all__ = ["rich_bar", "tqdm_bar"]


@contextmanager
def tqdm_bar(description: str = "", **options: Any) -> Iterator[Progress]:
    """Give a callback that moves a bar of tqdm, also in a notebook.

    Parameters
    ----------
    description : str
        Text before the bar.
    **options
        Of ``tqdm.tqdm``, such as ``disable=None`` to show nothing where there is no terminal.

    Yields
    ------
    callable
        For the argument `progress`. The bar is closed with the context.

    Raises
    ------
    RuntimeMissingError
        If tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise _missing("tqdm") from error
    usual = {"desc": description or None, "unit": "px", "unit_scale": True, "total": 0}
    with tqdm(**(usual | options)) as bar:

        def advance(done: int, total: int) -> None:
            if done < bar.n or bar.total != total:  # the next image
                bar.reset(total)
            bar.update(done - bar.n)
            if done == total:
                bar.refresh()  # the next image may begin before it would be drawn

        yield advance


@contextmanager
def rich_bar(
    description: str = "", bars: rich.progress.Progress | None = None, **options: Any
) -> Iterator[Progress]:
    """Give a callback that moves a bar of rich.

    Parameters
    ----------
    description : str
        Text before the bar.
    bars : rich.progress.Progress, optional
        Bars to add this one to, which the caller starts and stops; by default one that is shown while the
        context is active.
    **options
        Of ``rich.progress.Progress``, for the default.

    Yields
    ------
    callable
        For the argument `progress`.

    Raises
    ------
    RuntimeMissingError
        If rich is not installed.
    """
    try:
        from rich.progress import Progress as Bars
    except ImportError as error:
        raise _missing("rich") from error
    shown = Bars(**options) if bars is None else bars
    task = shown.add_task(description, total=None)

    def advance(done: int, total: int) -> None:
        shown.update(task, completed=done, total=total)

    if bars is not None:
        yield advance
        return
    with shown:
        yield advance


def _missing(name: str) -> RuntimeMissingError:
    return RuntimeMissingError(f'{name} is not installed; type: pip install "srcnn-rt[progress]"')
