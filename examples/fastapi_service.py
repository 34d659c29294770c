"""An HTTP service: an image in, a larger image out.

    pip install "srcnn-rt[cpu]" fastapi uvicorn
    uvicorn examples.fastapi_service:app
    curl --data-binary @small.jpg "http://127.0.0.1:8000/upscale?format=png" > large.png

It answers 413 to a body that is too large, 422 to what is no image or cannot be stored in the format, and 503
with Retry-After when too many requests wait. When a client leaves, its image is no longer computed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

import anyio
import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request, Response

from srcnn_rt import Engine, SrcnnError
from srcnn_rt.errors import ArgumentError, ImageError, OutOfMemoryError, OutputError

MODEL = os.environ.get("MODEL", "srcnn-915-x2")
PROVIDER = os.environ.get("PROVIDER", "auto")
MAX_BYTES = int(os.environ.get("MAX_BYTES", 20 * 10**6))
MAX_PIXELS = int(os.environ.get("MAX_PIXELS", 16 * 10**6))
# Images that are computed at once, and requests that may wait for that. Together they bound the memory: each
# request holds its body, each computed image its result, too.
AT_ONCE = int(os.environ.get("AT_ONCE", 2))
WAITING = int(os.environ.get("WAITING", 64))

MEDIA_TYPES = {
    "tif": "image/tiff", "png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "avif": "image/avif",
    "jxl": "image/jxl", "bmp": "image/bmp",
}  # fmt: skip
Format = Literal["tif", "png", "jpg", "webp", "avif", "jxl", "bmp"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load one engine, which all requests use."""
    with Engine(MODEL, provider=PROVIDER) as engine:  # type: ignore[arg-type]
        app.state.engine = engine
        app.state.at_once = anyio.CapacityLimiter(AT_ONCE)
        app.state.places = anyio.Semaphore(AT_ONCE + WAITING)
        yield


app = FastAPI(title="srcnn-rt", lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    """Tell what runs."""
    engine = app.state.engine
    return {"model": engine.spec.name, "provider": engine.provider}


@app.post("/upscale")
async def upscale(request: Request, format: Format = "png") -> Response:  # noqa: A002
    """Upscale the image in the body."""
    try:
        app.state.places.acquire_nowait()
    except anyio.WouldBlock:
        raise HTTPException(503, "too many requests", {"Retry-After": "1"}) from None
    try:
        data = await _body(request)
        return Response(await _upscaled(request, data, format), media_type=MEDIA_TYPES[format])
    finally:
        app.state.places.release()


async def _body(request: Request) -> bytes:
    """Read the body, but no more than `MAX_BYTES` of it."""
    too_large = HTTPException(413, f"the body may have at most {MAX_BYTES} bytes")
    if int(request.headers.get("content-length", 0)) > MAX_BYTES:
        raise too_large
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise too_large
    return bytes(data)


async def _upscaled(request: Request, data: bytes, format_: Format) -> bytes:
    """Upscale in a thread, for as long as the client is there."""
    cancel = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        cancel.set()

    work = partial(app.state.engine.upscale_bytes, data, format=format_, max_pixels=MAX_PIXELS, cancel=cancel)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        try:
            result: bytes | SrcnnError = await anyio.to_thread.run_sync(work, limiter=app.state.at_once)
        except SrcnnError as error:
            result = error
        tasks.cancel_scope.cancel()
    if isinstance(result, bytes):
        return result
    raise HTTPException(_status(result), str(result)) from result


def _status(error: SrcnnError) -> int:
    if isinstance(error, OutOfMemoryError):
        return 503
    # An OutputError with the system's number is a full disk here; without, the format cannot hold the image.
    theirs = isinstance(error, ImageError | ArgumentError) or (
        isinstance(error, OutputError) and error.errno is None
    )
    return 422 if theirs else 500
