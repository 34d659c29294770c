"""The FastAPI service: what it answers, that it stops when a client leaves, and that load leaves nothing."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from srcnn_rt import Engine
from srcnn_rt.errors import CancelledError
from tests.conftest import drawing
from tests.helpers.reference import quantise

pytest.importorskip("fastapi", reason="FastAPI is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")

ROOT = Path(__file__).parents[2]


def encoded(h: int, w: int, kind: str = "PNG", seed: int = 0) -> bytes:
    return saved(quantise(drawing(h, w, 3, seed), np.uint8), kind)


def saved(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


class Server:
    """The application in this process, on a port of its own."""

    def __init__(self, patch: pytest.MonkeyPatch, **settings: object) -> None:
        patch.syspath_prepend(str(ROOT / "examples"))
        for name, value in {"MODEL": "bicubic-x2", "PROVIDER": "cpu", **settings}.items():
            patch.setenv(name, str(value))
        sys.modules.pop("fastapi_service", None)
        import fastapi_service

        self.app = fastapi_service.app
        config = uvicorn.Config(self.app, port=0, log_level="warning", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def ask(self, data: Any, query: str = "", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        async def post() -> tuple[int, bytes, dict[str, str]]:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{self.port}/upscale{query}"
                async with session.post(url, data=data, headers=headers) as answer:
                    return answer.status, await answer.read(), dict(answer.headers)

        return asyncio.run(post())


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []
    with pytest.MonkeyPatch.context() as patch:

        def start(**settings: object) -> Server:
            started.append(Server(patch, **settings))
            return started[-1]

        yield start
        for server in started:
            server.stop()


def test_bytes_in_bytes_out(serve: Callable[..., Server]) -> None:
    server, data = serve(MAX_BYTES=100_000, MAX_PIXELS=10_000), encoded(45, 60)
    with Engine("bicubic-x2", provider="cpu") as engine:
        for query, format_, kind in (
            ("", "png", "png"),
            ("?format=jpg", "jpg", "jpeg"),
            ("?format=tif", "tif", "tiff"),
        ):
            status, body, headers = server.ask(data, query)
            assert (status, headers["Content-Type"]) == (200, f"image/{kind}")
            assert body == engine.upscale_bytes(data, format=format_)
    for bad, query, status, message in (
        (b"no image", "", 422, "the data: not an image of a known format"),
        (b"", "", 422, "the data: an empty file"),
        (data[:500], "", 422, "the data: truncated PNG, 500 bytes"),
        (encoded(101, 100), "", 422, "the data: declares 100 x 101"),
        (saved(np.zeros((9, 9), np.float32), "TIFF"), "?format=jpg", 422, "result.jpg: JPEG holds"),
        (data, "?format=gif", 422, "Input should be"),
        (bytes(100_001), "", 413, "at most 100000 bytes"),
    ):
        answered, body, _ = server.ask(bad, query)
        assert answered == status, body
        assert message in body.decode()
        assert "/" not in body.decode()

    async def parts() -> Any:
        for _ in range(30):
            yield bytes(10_000)

    assert server.ask(parts())[0] == 413  # without a Content-Length


class Waiting:
    """An engine that computes until it is told to stop."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Semaphore(0), threading.Event()

    def upscale_bytes(self, data: bytes, *, cancel: threading.Event, **_: object) -> bytes:
        self.begun.release()
        if cancel.wait(60):
            self.cancelled.set()
        raise CancelledError("stopped")


def client(port: int) -> socket.socket:
    """Send a request and return its connection."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
    return connection


def test_a_client_that_leaves_stops_its_image(serve: Callable[..., Server]) -> None:
    server = serve()
    server.app.state.engine = engine = Waiting()
    with client(server.port):
        assert engine.begun.acquire(timeout=30)
        assert not engine.cancelled.is_set()
    assert engine.cancelled.wait(30)


def test_concurrency_is_bounded(serve: Callable[..., Server]) -> None:
    """Two are computed, one waits, the fourth is sent away; when one leaves, the waiting one is computed."""
    server = serve(AT_ONCE=2, WAITING=1)
    server.app.state.engine = engine = Waiting()
    others = [client(server.port) for _ in range(2)]
    assert all(engine.begun.acquire(timeout=30) for _ in others)
    waiting = client(server.port)
    while server.app.state.places.value:
        time.sleep(0.01)
    status, _, headers = server.ask(b"abc")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert not engine.begun.acquire(timeout=0.1)
    others[0].close()
    assert engine.begun.acquire(timeout=30)
    for connection in (waiting, others[1]):
        connection.close()
    while server.app.state.places.value < 3:
        time.sleep(0.01)


def resources(pid: int) -> tuple[int, int]:
    """Return the resident bytes and the open descriptors of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return resident, len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def load(tmp_path: Path, requests: int, at_once: int, model: str, provider: str) -> list[tuple[int, int]]:
    """Ask for many images at once, a tenth of them damaged; return the resources after each fifth of them."""
    images = [encoded(24 + 9 * k, 40 + 5 * k, ("PNG", "JPEG", "WEBP", "TIFF")[k % 4], k) for k in range(8)]
    with Engine(model, provider=provider) as engine:
        expected = [engine.upscale_bytes(i, format="png") for i in images]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "MODEL": model, "PROVIDER": provider, "TMPDIR": str(temporary)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "uvicorn", "examples.fastapi_service:app", "--port", str(port), "--log-level", "error"]
    server = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment)
    answers: list[int] = []

    async def one(session: Any, gate: asyncio.Semaphore, k: int) -> None:
        damaged, image = k % 10 == 3, images[k % len(images)]
        async with (
            gate,
            session.post("/upscale", data=image[: len(image) // 2] if damaged else image) as answer,
        ):
            body = await answer.read()
            assert answer.status == (422 if damaged else 200), body
            assert damaged or body == expected[k % len(images)]
            answers.append(k)

    async def all_of_them() -> list[tuple[int, int]]:
        seen = []
        for part in range(5):
            gate = asyncio.Semaphore(at_once)
            connector = aiohttp.TCPConnector(limit=at_once)
            base = f"http://127.0.0.1:{port}"
            async with aiohttp.ClientSession(base, connector=connector) as session:
                numbers = range(part * requests // 5, (part + 1) * requests // 5)
                await asyncio.gather(*(one(session, gate, k) for k in numbers))
            await asyncio.sleep(0.5)  # until the server has closed its ends
            seen.append(resources(server.pid))
        return seen

    try:
        while True:
            assert server.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        seen = asyncio.run(all_of_them())
        assert sorted(answers) == list(range(requests))
        assert list(temporary.iterdir()) == []
    finally:
        server.terminate()
        server.wait(30)
    return seen


def stays_flat(seen: list[tuple[int, int]]) -> None:
    """After the first fifth, memory and descriptors no longer grow."""
    (first, descriptors), (last, left) = seen[0], seen[-1]
    assert last <= first * 1.15 + 8e6, seen
    assert left == descriptors, seen


def test_load(tmp_path: Path) -> None:
    stays_flat(load(tmp_path, 100, 32, "bicubic-x2", "cpu"))


@pytest.mark.slow
def test_much_load(tmp_path: Path) -> None:
    seen = load(tmp_path, 1000, 32, "srcnn-915-x2", "auto")
    print("resident MB and descriptors after each 200 requests:", [(a // 10**6, b) for a, b in seen])
    stays_flat(seen)
