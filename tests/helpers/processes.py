"""Run a function in a forked child, and scripts in processes of their own."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

SECONDS = 60.0  # far more than a child needs; one that hangs fails its test


def in_forked_child(function: Callable[[], Any]) -> Any:
    """Return the result of a function, computed in a child that is forked here.

    Raises
    ------
    AssertionError
        With the child's traceback if the function raises, or if it does not end.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = pickle.dumps((True, function()))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            ready = select.select([pipe], [], [], SECONDS)[0]
            assert ready, f"the child has not answered for {SECONDS} s"
            good, answer = pickle.loads(pipe.read())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert good, answer
    return answer


def run_script(code: str, *arguments: str) -> str:
    """Return what a script prints in a process of its own.

    Raises
    ------
    AssertionError
        If it fails or does not end.
    """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
