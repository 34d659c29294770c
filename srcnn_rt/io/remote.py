"""Files behind URLs, by fsspec (extra ``remote``)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import (
    ArgumentError,
    ImageError,
    OutputError,
    RuntimeMissingError,
    SourceMissingError,
    SrcnnError,
)
from .foreign_errors import foreign_errors

# An object appears there when all of it has arrived. Elsewhere it is written beside its place and renamed.
_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci"}
_HTTP = {"http", "https"}


def is_url(name: str) -> bool:
    """Return whether a name begins with a protocol, such as ``s3://`` or ``simplecache::s3://``."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*(://|::.*://)", name) is not None


def shown(url: str) -> str:
    """Return a URL for messages: without what may be secret."""
    for secret in _secrets(url):
        url = url.replace(secret, "", 1)
    return url


def beside(url: str, name: str) -> str:
    """Return the URL of another file in the same folder."""
    return f"{url.rpartition('/')[0]}/{name}"


def _secrets(url: str) -> list[str]:
    """Return user and password, and query and fragment; in object stores ? and # are letters of names."""
    found = re.findall(r"(?<=://)[^/@]*@", url)
    return found + re.findall(r"https?://[^?#]*([?#].*)", url)


@contextmanager
def chunks(url: str, size: int) -> Iterator[Iterator[bytes]]:
    """Open a URL and yield an iterator of its content.

    Raises
    ------
    SourceMissingError, ImageError
        If it cannot be read.
    """
    system, path, protocol = _file_system(url, "reading")
    # One request for all: between two, a server may replace the file.
    options = {"block_size": 0} if protocol in _HTTP else {}
    with _errors(ImageError, url, "cannot be read"):
        file = system.open(path, "rb", **options)
    with file:
        yield iter(lambda: _read(file, size, url), b"")


def check_target(url: str, *, overwrite: bool) -> None:
    """Refuse, before any work, a URL that cannot be written or is taken.

    Raises
    ------
    OutputError
    """
    system, path, protocol = _file_system(url, "writing")
    if protocol in _HTTP:
        raise OutputError(f"{shown(url)}: cannot be written: {protocol} is for reading")
    with _errors(OutputError, url, "cannot be written"):
        if not overwrite and system.exists(path):
            raise OutputError(f"{shown(url)}: already exists; use --overwrite to replace it")


def put(file: Path, url: str) -> None:
    """Upload a file. Under its name there is at any time the old object or the whole new one.

    Raises
    ------
    OutputError
    """
    system, path, protocol = _file_system(url, "writing")
    with _errors(OutputError, url, "cannot be written"):
        if protocol in _ATOMIC:
            system.put_file(str(file), path)
            return
        growing = f"{path}.{secrets.token_hex(4)}.partial"
        try:
            system.put_file(str(file), growing)
            system.mv(growing, path)
        except BaseException:
            with suppress(Exception):
                system.rm_file(growing)
            raise


def _read(file: Any, size: int, url: str) -> bytes:
    with _errors(ImageError, url, "cannot be read"):
        return bytes(file.read(size))


@contextmanager
def _errors(kind: type[SrcnnError], url: str, what: str) -> Iterator[None]:
    """Raise errors of the block as `kind`, without the parts of the URL that `shown` leaves out."""
    try:
        with foreign_errors(kind, f"{shown(url)}: {what}"):
            yield
    except kind as error:
        cause = error.__cause__
        if kind is ImageError and isinstance(cause, FileNotFoundError):
            reason = cause.__cause__
            if reason is None or getattr(reason, "status", None) == 404:
                raise SourceMissingError(f"{shown(url)}: no such file") from cause
            # fsspec says so of every server that gives no answer.
            error.args = (f"{shown(url)}: {what}: {reason}",)
        for secret in filter(None, (found.strip("@?#") for found in _secrets(url))):
            error.args = (str(error.args[0]).replace(secret, "..."),)
        raise


def _file_system(url: str, doing: str) -> tuple[Any, str, str]:
    """Return the file system of a URL, the path there and its protocol."""
    try:
        with _errors(ArgumentError, url, "cannot be opened"):
            from fsspec.core import url_to_fs

            system, path = url_to_fs(url)
    except ArgumentError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        raise RuntimeMissingError(
            f'{doing} {shown(url)} needs a package ({error.__cause__}); run: pip install "srcnn-rt[remote]"'
        ) from error.__cause__
    protocol = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
    return system, path, url.partition(":")[0].lower() if protocol in _HTTP else protocol
