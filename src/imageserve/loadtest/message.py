"""What is sent and what comes back, as bytes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from imageserve.errors import ImageserveError

BOUNDARY = "imageserve-loadtest-7f3c9a1e5d"
_CRLF = "\r\n"


class TargetError(ImageserveError):
    """The target's address cannot be used, or what is there cannot be measured."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the target listens."""

    scheme: str
    host: str
    port: int
    path: str = ""
    """What stands before ``/predict``; without a slash at its end."""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read ``http://host:port/prefix``.

        Raises:
            TargetError: it is not such an address.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise TargetError(f"{url!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TargetError(f"{url!r} must be http://HOST[:PORT] or https://HOST[:PORT]")
        if parts.query or parts.fragment or parts.username or parts.password:
            raise TargetError(f"{url!r} must have neither user, query nor fragment")
        default = 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"))

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Their names in lower case."""
    body: bytes = b""


class NoAnswer(ImageserveError):
    """No whole answer came; ``kind`` is one of ``result.ERROR_KINDS``."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Requests:
    """Writes requests to one target."""

    address: Address
    api_key: str = ""
    query: str = ""
    """Such as ``?top=1``."""

    def get(self, path: str) -> bytes:
        return f"GET {self.address.path}{path} HTTP/1.1{_CRLF}{self._headers()}{_CRLF}".encode()

    def predict(
        self, pictures: Sequence[bytes], request_id: str, *, multipart: bool = False
    ) -> bytes:
        """Write a ``POST /predict``: the picture as the body, or a form where there are several."""
        if multipart or len(pictures) > 1:
            kind, body = f"multipart/form-data; boundary={BOUNDARY}", form(pictures)
        else:
            kind, body = "application/octet-stream", pictures[0]
        head = (
            f"POST {self.address.path}/predict{self.query} HTTP/1.1{_CRLF}{self._headers()}"
            f"X-Request-Id: {request_id}{_CRLF}Content-Type: {kind}{_CRLF}"
            f"Content-Length: {len(body)}{_CRLF}{_CRLF}"
        )
        return head.encode() + body

    def _headers(self) -> str:
        key = f"Authorization: Bearer {self.api_key}{_CRLF}" if self.api_key else ""
        return f"Host: {self.address.authority}{_CRLF}{key}"


def form(pictures: Sequence[bytes]) -> bytes:
    """Write pictures as the parts ``image`` of a multipart form."""
    parts = [
        f"--{BOUNDARY}{_CRLF}"
        f'Content-Disposition: form-data; name="image"; filename="{i}"{_CRLF}'
        f"Content-Type: application/octet-stream{_CRLF}{_CRLF}".encode()
        + picture
        + b"\r\n"
        for i, picture in enumerate(pictures)
    ]
    return b"".join(parts) + f"--{BOUNDARY}--{_CRLF}".encode()
