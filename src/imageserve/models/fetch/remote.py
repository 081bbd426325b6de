"""Files on web servers and in object stores: listed, and downloaded through interruptions.

The credentials and addresses of object stores come from the environment, by the names that their
own tools use (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_SERVICE_ACCOUNT``, …); so do
``HTTPS_PROXY``, ``NO_PROXY`` and ``SSL_CERT_FILE``.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imageserve.backoff import Backoff
from imageserve.errors import ModelLoadError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

log = logging.getLogger(__name__)

MOST_FAILURES = 6
"""So many tries that bring nothing, one after the other, and it is given up."""
PAUSES_S = (1.0, 30.0)

Got = Callable[[int], None]
"""Is told how many bytes have come."""
T = TypeVar("T")

_CHUNK = 2**20
_PREFIXES = {"gs": "GOOGLE", "az": "AZURE"}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request has failed."""

    reason: str
    status: int | None
    """Of the answer, None where there was none."""
    is_transient: bool
    """Whether another try may succeed."""


class RemoteError(ModelLoadError):
    """A server does not give what is asked for; the message says what to do."""

    def __init__(self, message: str, status: int | None) -> None:
        """``status``: that of its answer, None where there was none."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a folder in an object store."""

    path: str
    """Below the address of its store."""
    size: int


class Remote:
    """One address: a file, or a folder of an object store."""

    def __init__(self, address: str, shown: str, headers: Mapping[str, str] | None = None) -> None:
        """Nothing is asked yet. Raises ModelLoadError where the settings of a store are wrong.

        Args:
            address: such as ``s3://bucket/folder``.
            shown: how messages call it, without secrets.
            headers: sent with each request to that host, and to no other that it names.
        """
        self._shown = shown
        try:
            self._store = _open(address, headers or {})
        except ModelLoadError:
            raise
        except Exception as error:
            raise RemoteError(f"{shown}: {fault_of(error).reason}", None) from error

    def files(self, most: int) -> list[RemoteFile]:
        """Return the files of a folder, at most so many. Raises ModelLoadError."""
        import obstore

        def read() -> list[RemoteFile]:
            found: list[RemoteFile] = []
            for several in obstore.list(self._store):
                found += [RemoteFile(each["path"], each["size"]) for each in several]
                if len(found) > most:
                    break
            return found

        return _tried(read, self._shown)

    def read(self, most_bytes: int) -> bytes:
        """Return a file, such as an answer of an API. Raises ModelLoadError."""
        import obstore

        def read() -> bytes:
            result = obstore.get(self._store, "")
            if result.meta["size"] > most_bytes:
                raise ModelLoadError(f"{self._shown} is larger than {most_bytes} bytes")
            return bytes(result.bytes())

        return _tried(read, self._shown)

    def download(self, path: str, to: Path, got: Got, most_bytes: int) -> None:
        """Write one file; after an interruption it goes on where it was.

        Args:
            path: below the address; empty for the address itself.
            to: the new file.
            got: is told of each piece.
            most_bytes: that the file may have.

        Raises:
            ModelLoadError: it cannot be had; the message says what to do.
            OSError: it cannot be written.
        """
        with to.open("xb") as file:
            piece = _Download(self._store, path, file, got, most_bytes)
            shown = f"{self._shown}/{path}" if path else self._shown
            _tried(piece.go_on, shown, file.tell)


class _Download:
    def __init__(self, store: Any, path: str, file: Any, got: Got, most_bytes: int) -> None:
        self._store, self._path, self._file = store, path, file
        self._got, self._most_bytes = got, most_bytes
        self._tag: str | None = None

    def go_on(self) -> None:
        import obstore
        from obstore.exceptions import NotSupportedError, PreconditionError

        options: Any = {}
        if self._file.tell():
            options = {"range": {"offset": self._file.tell()}}
            if self._tag:
                options["if_match"] = self._tag
        try:
            result = obstore.get(self._store, self._path, options=options)
        except (NotSupportedError, PreconditionError):
            # It gives no parts, or the file is another one by now.
            self._begin_anew()
            raise
        self._tag = result.meta["e_tag"]
        size = result.meta["size"]
        if size > self._most_bytes:
            raise ModelLoadError(f"it has {size} bytes, more than a model may: {self._most_bytes}")
        for chunk in result.stream(min_chunk_size=_CHUNK):
            _write(self._file, chunk)
            self._got(len(chunk))
        if self._file.tell() != size:
            self._begin_anew()
            raise ConnectionError(f"{size} bytes were announced, others came")

    def _begin_anew(self) -> None:
        self._got(-self._file.tell())
        self._file.seek(0)
        self._file.truncate()


class _DiskError(Exception):
    """The file cannot be written; not to be taken for an error of the network."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _write(file: Any, chunk: Any) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise _DiskError(error) from error


def _open(address: str, headers: Mapping[str, str]) -> "ObjectStore":
    try:
        from obstore.store import HTTPStore, from_url
    except ImportError as error:
        raise ModelLoadError(
            "fetching needs the package obstore: pip install 'imageserve[fetch]'"
        ) from error
    # Trying again is done here, where what has come is kept. A large file may take hours, a pause
    # in it half a minute.
    retry: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=30)}
    options: Any
    client = {"timeout": "7days", "connect_timeout": "10s", "read_timeout": "30s"}
    scheme = address.partition("://")[0]
    if scheme in ("https", "http"):
        # An http address is that of a HF_ENDPOINT; from https no server may send us to http.
        options = {**client, "default_headers": dict(headers), "allow_http": scheme == "http"}
        return HTTPStore.from_url(address, client_options=options, retry_config=retry)
    prefix = _PREFIXES.get(scheme, "AWS")
    # With options of ours, the library does not look for this one itself.
    may_be_http = os.environ.get(f"{prefix}_ALLOW_HTTP", "").lower() in ("true", "1")
    options = {**client, "allow_http": may_be_http}
    return from_url(address, client_options=options, retry_config=retry)


def _tried(call: Callable[[], T], shown: str, come: Callable[[], int] = lambda: 0) -> T:
    """Call until it succeeds, with pauses; ``come`` says how many bytes are there."""
    backoff, failures, before = Backoff(*PAUSES_S), 0, 0
    while True:
        try:
            return call()
        except ModelLoadError as error:
            raise ModelLoadError(f"{shown}: {error}") from error
        except _DiskError as error:
            raise error.error from None
        except Exception as error:
            if come() > before:
                backoff, failures = Backoff(*PAUSES_S), 0
            before, failures = come(), failures + 1
            fault = fault_of(error)
            if not fault.is_transient or failures == MOST_FAILURES:
                raise RemoteError(f"{shown}: {fault.reason}", fault.status) from error
            _wait(backoff.next(), shown, fault)


def _wait(pause_s: float, shown: str, fault: Fault) -> None:
    fields = {"source": shown, "reason": fault.reason, "pause_s": round(pause_s, 1)}
    log.warning("interrupted, tried again after a pause", extra={"fields": fields})
    time.sleep(pause_s)


# -- what went wrong -------------------------------------------------------------------------------

_STATUS = re.compile(r"non-2xx status code: (\d{3}[A-Za-z -]*)")
_INNERMOST = re.compile(r'(?:message|error|source): "([^"]{1,200})"')
_METADATA = "169.254.169.254"
"""Where the clouds hand out credentials to their machines."""

_REASONS = {
    ("NoSuchBucket", "ContainerNotFound"): "there is no such bucket: correct the address",
    ("BadScheme",): "it is, or leads to, an address without TLS: for an object store "
    "AWS_ALLOW_HTTP=true (GOOGLE_ALLOW_HTTP, AZURE_ALLOW_HTTP) allows it",
    ("MissingAccount",): "the storage account is not named: set AZURE_STORAGE_ACCOUNT_NAME",
    ("MissingContentLength",): "the server does not say how long the file is: use one that does "
    "(Content-Length)",
    ("UnknownIssuer", "InvalidCertificate", "invalid peer certificate"): "the server's certificate "
    "is not trusted: name your certificate authority's file in SSL_CERT_FILE",
    (
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
    ): "the store does not accept these credentials: correct or renew them",
    (_METADATA,): "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "(gs: GOOGLE_SERVICE_ACCOUNT, az: AZURE_STORAGE_ACCOUNT_KEY), or for a public bucket "
    "AWS_SKIP_SIGNATURE=true (GOOGLE_SKIP_SIGNATURE, AZURE_SKIP_SIGNATURE)",
}
"""By what the library's page says."""


def fault_of(error: Exception) -> Fault:
    """Say what an error of obstore means, in a sentence that says what to do.

    The library tells it on a page that holds the whole address, with the signature in it. So
    nothing of that page is repeated but the server's status and the innermost reason.
    """
    text = str(error)
    match = _STATUS.search(text)
    status = int(match[1][:3]) if match else None
    if status == 404 or isinstance(error, FileNotFoundError):
        status = 404
    for signs, reason in _REASONS.items():
        if any(sign in text for sign in signs):
            return Fault(reason, None if _METADATA in signs else status, is_transient=False)
    if status is None:
        return Fault(_of_connection(text), None, is_transient=True)
    return Fault(
        _of_status(status, match[1].strip() if match else "404"),
        status,
        is_transient=status in (408, 425, 429) or status >= 500,
    )


def _of_status(status: int, shown: str) -> str:
    if status == 404:
        return "does not exist (404): correct the address"
    if status in (401, 403):
        return f"the server refuses it ({shown}): give credentials that may read it"
    return f"the server answers {shown}: try again later"


def _of_connection(text: str) -> str:
    innermost = _INNERMOST.findall(text)
    why = re.sub(r"\?\S+", "", innermost[-1] if innermost else text.split("\n", 1)[0])
    return (
        f"the connection failed ({why}): check the address, the network, HTTPS_PROXY and NO_PROXY"
    )
