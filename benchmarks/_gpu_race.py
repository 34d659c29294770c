"""Check the image of each contestant, then time all of them in rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _gpu_case import Case, Contestant
from numpy.typing import NDArray

# Allowed rms difference by precision, in code values of 255. float32 has a largest difference instead.
LIMITS = {"tf32": 0.8, "float16": 0.8, "bfloat16": 1.5}
MAX_FLOAT32 = 1.0
WARM_UP = 2
_ROWS = 512  # rows compared at once, to limit memory


class WrongImageError(Exception):
    """A contestant's image is too far from the reference."""


class Deadline:
    """A point in time `limit` seconds from now, after which nothing new begins."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._end = clock, clock() + limit

    @property
    def over(self) -> bool:
        return self._clock() >= self._end


def difference(got: NDArray[np.uint8], reference: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the rms and the largest difference of two images, in code values."""
    squares, worst = 0, 0
    for y in range(0, len(got), _ROWS):
        delta = got[y : y + _ROWS].astype(np.int32) - reference[y : y + _ROWS]
        squares += int(np.einsum("ij,ij->", delta, delta, dtype=np.int64))
        worst = max(worst, int(np.abs(delta).max()))
    return math.sqrt(squares / got.size), float(worst)


def verify(contestant: Contestant, case: Case, reference: NDArray[np.uint8]) -> tuple[float, float]:
    """Warm a contestant up and check its image.

    Returns
    -------
    rms, largest : float
        Differences in code values of 255.

    Raises
    ------
    WrongImageError
        If the image differs by more than its precision allows.
    """
    for _ in range(WARM_UP):
        contestant.run()
    case.place.wait()
    got = contestant.result()
    if got.shape != reference.shape or got.dtype != np.uint8:
        raise WrongImageError(f"gives {got.dtype} {got.shape}, not uint8 {reference.shape}")
    rms, worst = difference(got, reference)
    limit = LIMITS.get(contestant.precision)
    if limit is None and worst > MAX_FLOAT32:
        raise WrongImageError(f"largest difference {worst:g} code values, over {MAX_FLOAT32:g}")
    if limit is not None and rms > limit:
        raise WrongImageError(f"rms {rms:.3g} code values, over {limit:g}")
    return rms, worst


def turn(contestant: Contestant, wait: Callable[[], None], seconds: float) -> list[float]:
    """Run repeatedly for `seconds`, at least once, and return the seconds of every run.

    A run begins and ends with an idle GPU. The host's clock then counts the work of all streams and all
    libraries.
    """
    runs: list[float] = []
    wait()
    end = time.perf_counter() + seconds
    while not runs or time.perf_counter() < end:
        start = time.perf_counter()
        contestant.run()
        wait()
        runs.append(time.perf_counter() - start)
    return runs


def summary(turns: Sequence[Sequence[float]], pixels: int) -> dict[str, Any]:
    """Return the speed in Mpx/s of the result, and times in milliseconds."""
    speeds = [pixels / 1e6 / float(np.median(runs)) for runs in turns]
    every = np.concatenate([np.asarray(runs) for runs in turns]) * 1e3
    return {
        "mpx_per_s": float(np.median(speeds)),
        "p50": float(np.percentile(every, 50)),
        "p95": float(np.percentile(every, 95)),
        "runs": len(every),
        "rounds": speeds,
    }


def race(
    team: Sequence[Contestant],
    wait: Callable[[], None],
    pixels: int,
    rounds: int,
    seconds: float,
    deadline: Deadline,
    done: Callable[[dict[str, dict[str, Any]], dict[str, Exception]], None],
) -> bool:
    """Let contestants take turns, in a new random order each round; return whether all rounds ran.

    Parameters
    ----------
    team : sequence of Contestant
        Contestants whose image was right.
    wait : callable
        Waits until the GPU is idle.
    pixels : int
        Pixels of the result.
    rounds : int
        Number of rounds.
    seconds : float
        Length of a turn.
    deadline : Deadline
        No round begins after it, except the first.
    done : callable
        Called after each round with summaries by name and route, and the errors of contestants that failed.
    """
    rng = np.random.default_rng(0)
    turns: dict[str, list[list[float]]] = {key(c): [] for c in team}
    fallen: dict[str, Exception] = {}
    for k in range(rounds):
        if k and deadline.over:
            return False
        for at in rng.permutation(len(team)):
            contestant = team[at]
            if key(contestant) in fallen:
                continue
            try:
                turns[key(contestant)].append(turn(contestant, wait, seconds))
            except Exception as error:  # GPU memory may run out only now
                fallen[key(contestant)] = error
        done({name: summary(own, pixels) for name, own in turns.items() if name not in fallen}, fallen)
    return True


def key(contestant: Contestant) -> str:
    """Return the unique key of a contestant."""
    return f"{contestant.name}, {contestant.route}"
