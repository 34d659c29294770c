"""What an engine has in one process: a model loaded into a runtime, and the threads that work for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..backends.loader import Loader, Setup
from .ending import Runs


@dataclass(slots=True)
class Running:
    """A loaded model and its threads.

    Attributes
    ----------
    setup : Setup
        Replaced by one that `Engine.tune` found to be faster.
    pool : ThreadPoolExecutor
        Runs the workers of all images.
    tuning : RLock
        Held while setups are compared.
    runs : Runs
        What is under way.
    """

    setup: Setup
    pool: ThreadPoolExecutor
    tuning: threading.RLock = field(default_factory=threading.RLock)
    runs: Runs = field(default_factory=Runs)

    @classmethod
    def start(cls, setup: Setup, threads: int) -> Running:
        """Return a setup with as many threads as it has workers, and at least `threads`."""
        return cls(setup, ThreadPoolExecutor(max(threads, setup.workers), "srcnn-work"))

    def close(self) -> None:
        """End all runs, wait for the threads, and release the model."""
        self.runs.close()
        self.pool.shutdown(cancel_futures=True)
        self.setup.close()


def again(loader: Loader, inherited: Running) -> Running:
    """Return the same for a child that was forked.

    Raises
    ------
    ProviderError
        If the parent's runs on a GPU.
    """
    return Running.start(loader.again(inherited.setup), loader.options.threads)
