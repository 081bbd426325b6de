"""Who may call ``/predict``: API keys from a file, where they are switched on.

Keys are kept and compared as digests, all of them every time, so that neither the time nor the
memory of a process tells much about them.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

from imageserve.errors import Forbidden, SettingsError, Unauthorized

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 5.0
"""How often, at most, the file is looked at: a Secret that is changed arrives without a restart."""

SHORTEST_KEY = 16


class ApiKeys:
    """The keys of one file."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises SettingsError where it holds no usable key.
        """
        self._path = path
        self._clock = clock
        self._changed = path.stat().st_mtime_ns
        self._looked_at = clock()
        self._digests = _read(path)

    def check(self, authorization: str, api_key: str) -> None:
        """Accept the headers ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

        Raises Unauthorized where there is no key, Forbidden where it is not one of ours.
        """
        self._look_again()
        key = _presented(authorization, api_key)
        if key is None:
            raise Unauthorized("an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Forbidden("the API key is not valid")

    def _look_again(self) -> None:
        now = self._clock()
        if now - self._looked_at < LOOK_AGAIN_S:
            return
        self._looked_at = now
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._changed:
                self._digests = _read(self._path)
                self._changed = changed
                log.info("read %d API keys", len(self._digests))
        except (OSError, SettingsError) as error:
            log.error("the API keys are not read again, the old ones stay valid: %s", error)


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"API_KEYS_FILE: {path} cannot be read: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SettingsError(f"API_KEYS_FILE: {path} holds no key")
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise SettingsError(f"API_KEYS_FILE: a key has fewer than {SHORTEST_KEY} characters")
    return tuple(map(_digest, keys))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _presented(authorization: str, api_key: str) -> str | None:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return api_key or None
