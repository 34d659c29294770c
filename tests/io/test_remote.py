"""URLs by fsspec: a server on this machine, and file systems in memory."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from srcnn_rt import (
    ArgumentError,
    Engine,
    ImageError,
    OutputError,
    RuntimeMissingError,
    SourceMissingError,
    SrcnnError,
)
from srcnn_rt.io import remote
from tests.conftest import drawing
from tests.helpers.reference import quantise

fsspec = pytest.importorskip("fsspec", reason="the extra 'remote' is not installed")
memory_module = pytest.importorskip("fsspec.implementations.memory")

RGB = quantise(drawing(45, 60), np.uint8)


class Objects(memory_module.MemoryFileSystem):
    """An object store: what is put appears at once, and moving would copy it."""

    protocol = "gs"
    store: dict[str, object] = {}  # noqa: RUF012 (as in fsspec)
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/")

    def mv(self, *_: object, **__: object) -> None:
        raise AssertionError("copies the whole object")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("bicubic-x2", provider="cpu", tile=32, threads=2) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[object]:
    fsspec.register_implementation("gs", Objects, clobber=True)
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    Objects.store.clear()


@pytest.fixture(scope="module")
def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(png: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path.startswith("/private/") and query != "token=secret":
                self.send_error(403)
            elif path.endswith("/a.png"):
                self.send_response(200)
                # A connection that ends early.
                self.send_header("Content-Length", str(len(png) + 100 * path.startswith("/short/")))
                self.end_headers()
                self.wfile.write(png)
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()


def test_http_is_read(engine: Engine, server: str, png: bytes) -> None:
    made = io.BytesIO()
    report = engine.upscale_file(f"{server}/private/a.png?token=secret", made)
    assert made.getvalue() == engine.upscale_bytes(png)
    assert report.source == f"{server}/private/a.png"


def test_a_url_where_a_path_is(engine: Engine, server: str) -> None:
    made = np.zeros((90, 120, 3), np.uint8)
    for window, part in engine.stream(f"{server}/a.png"):
        made[window] = part
    assert np.array_equal(made, engine.upscale(RGB))


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/nix.png", SourceMissingError, r"/nix\.png: no such file$"),
        ("/private/a.png?token=wrong", ImageError, r"/private/a\.png: cannot be read: 403"),
        ("/short/a.png", ImageError, r"/short/a\.png: cannot be read: "),
    ],
)
def test_http_that_fails(
    engine: Engine, server: str, path: str, kind: type[SrcnnError], message: str
) -> None:
    made = io.BytesIO()
    with pytest.raises(kind, match=message) as raised:
        engine.upscale_file(server + path, made)
    assert "wrong" not in str(raised.value)
    assert made.getvalue() == b""


def test_no_server_and_no_secrets(engine: Engine) -> None:
    with pytest.raises(
        ImageError, match=r"^http://127.0.0.1:1/a.png: cannot be read: .*[Cc]onnect"
    ) as raised:
        engine.upscale_file("http://user:word@127.0.0.1:1/a.png?token=secret#part", io.BytesIO())
    assert not any(word in str(raised.value) for word in ("user", "word", "secret", "part"))


@pytest.mark.parametrize("protocol", ["memory", "gs"])
def test_a_result_appears_whole(engine: Engine, memory: object, png: bytes, protocol: str) -> None:
    system = fsspec.filesystem(protocol)
    system.pipe("/bucket/a.png", png)
    engine.upscale_file(f"{protocol}://bucket/a.png", f"{protocol}://bucket/b.tif", compress="zstd")
    assert sorted(system.find("/bucket")) == ["/bucket/a.png", "/bucket/b.tif"]
    assert system.cat("/bucket/b.tif") == engine.upscale_bytes(png, format="tif", compress="zstd")
    with pytest.raises(OutputError, match=f"{protocol}://bucket/b.tif: already exists; use --overwrite"):
        engine.upscale_file(png, f"{protocol}://bucket/b.tif")
    engine.upscale_file(png, f"{protocol}://bucket/b.tif", overwrite=True)
    assert system.cat("/bucket/b.tif") == engine.upscale_bytes(png, format="tif")


def test_an_upload_that_fails_leaves_nothing(
    engine: Engine, memory: object, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object, source: str, target: str, **_: object) -> None:
        self.store[target] = b"half"  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory_module.MemoryFileSystem, "put_file", fails)
    with pytest.raises(
        OutputError, match=r"^memory://bucket/b.png: cannot be written: No space left on device$"
    ):
        engine.upscale_file(png, "memory://bucket/b.png")
    assert fsspec.filesystem("memory").store == {}


def test_what_cannot_be(engine: Engine, memory: object, png: bytes) -> None:
    for url, kind, message in (
        ("nix://bucket/a.png", ArgumentError, "nix://bucket/a.png: cannot be opened: Protocol not known"),
        ("memory://bucket/a.png", SourceMissingError, "memory://bucket/a.png: no such file"),
    ):
        with pytest.raises(kind, match=message):
            engine.upscale_file(url, io.BytesIO())
    for url, message in (
        ("https://host/a.png", "https://host/a.png: cannot be written: https is for reading"),
        ("memory://bucket/a.gif", "memory://bucket/a.gif: the suffix must be one of"),
        ("memory://bucket/a.zarr", "memory://bucket/a.zarr: the suffix must be one of"),
    ):
        with pytest.raises(OutputError, match=message):
            engine.upscale_file(png, url)


def test_what_is_shown_of_a_url() -> None:
    for url, shown in (
        ("https://user:word@host/a.png?token=1#part", "https://host/a.png"),
        ("simplecache::https://user@host/a.png?token=1", "simplecache::https://host/a.png"),
        ("s3://bucket/a #1?.png", "s3://bucket/a #1?.png"),
        ("sftp://user:word@host/a@b.tif", "sftp://host/a@b.tif"),
    ):
        assert remote.shown(url) == shown
    assert remote.beside("sftp://user@host/x/a.tif", "b.tif") == "sftp://user@host/x/b.tif"


def test_what_a_url_is() -> None:
    urls = ("s3://b/a.png", "simplecache::https://host/a.png", "zip://a.png::s3://b/c.zip")
    assert all(map(remote.is_url, urls))
    files = (
        "a/b.png",
        "/vsicurl/http://host/a.tif",
        "-",
        "C:/a.png",
        "a::b.png",
        "a:b.png",
        "./s3://b/a.png",
    )
    assert not any(map(remote.is_url, files))


def test_without_fsspec_the_extra_is_named(tmp_path: object) -> None:
    code = (
        "import io, sys\n"
        "sys.modules['fsspec'] = None\n"
        "from srcnn_rt import Engine, RuntimeMissingError\n"
        "try: Engine('bicubic-x2', provider='cpu').upscale_file('s3://bucket/a.png', io.BytesIO())\n"
        "except RuntimeMissingError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("reading s3://bucket/a.png needs a package (")
    assert done.stdout.endswith('; run: pip install "srcnn-rt[remote]"\n')
    assert RuntimeMissingError.__name__ in code
