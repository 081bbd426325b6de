"""Who may call ``/predict``: API keys from a file, where API_KEYS_FILE is set.

Only digests of the keys are kept, and a request is compared with all of them: so neither the memory
nor the response times of a process reveal a key.

What its lines say, ``web.keys_file`` reads.
"""

import hmac
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path

from imageserve.errors import Forbidden, SettingsError, Unauthorized
from imageserve.web.keys_file import Caller, Key, digest_of, parse_keys

log = logging.getLogger(__name__)

CHECK_FILE_S = 5.0
"""Seconds between two checks of the file: a changed Secret is read without a restart."""


class ApiKeys:
    """The keys of one file."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises SettingsError where it holds no key, or a line that cannot be one.
        """
        self._path = path
        self._clock = clock
        self._changed = path.stat().st_mtime_ns
        self._checked_at = clock()
        keys, wrong = _read(path)
        if wrong:
            raise SettingsError(f"API_KEYS_FILE: {path}, {wrong[0]}")
        if not keys:
            raise SettingsError(f"API_KEYS_FILE: {path} holds no key")
        self._keys = keys

    def caller(self, authorization: str, api_key: str) -> Caller:
        """Accept the headers ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

        Return whose key it is. Raises Unauthorized where there is none, Forbidden where it is not
        in the file.
        """
        self._reload()
        key = _presented(authorization, api_key)
        if key is None:
            raise Unauthorized("an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        digest = digest_of(key)
        matches = [key.caller for key in self._keys if hmac.compare_digest(digest, key.digest)]
        if not matches:
            raise Forbidden("the API key is not valid")
        # Of a key that is there twice the lower priority counts.
        return max(matches, key=lambda caller: caller.priority)

    def warn_of_models(self, served: Collection[str]) -> None:
        """Log which lines name a model that is not served here; another pod may serve it."""
        for key in self._keys:
            if not key.caller.models <= {*served}:
                log.warning(
                    "API_KEYS_FILE: %s, line %d: its models= names one that is not served here; "
                    "served are %s",
                    self._path,
                    key.line,
                    ", ".join(served),
                )

    def _reload(self) -> None:
        """Read the file again if it has changed; keep the old keys if it cannot be read."""
        now = self._clock()
        if now - self._checked_at < CHECK_FILE_S:
            return
        self._checked_at = now
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._changed:
                return
            keys, wrong = _read(self._path)
        except (OSError, SettingsError) as error:
            log.error("the API keys could not be read again, the old ones stay valid: %s", error)
            return
        self._changed = changed
        self._keys = keys
        for what in wrong:
            log.error("API_KEYS_FILE: %s, %s: it is left out", self._path, what)
        if keys:
            log.info("read %d API keys", len(keys))
        else:
            log.error("API_KEYS_FILE: %s holds no key: nobody may call", self._path)


def read_api_keys(path: str | None) -> ApiKeys | None:
    """Return the keys of API_KEYS_FILE; None, for "everybody may call", where it is not set.

    Raises SettingsError where the file holds no key, or a line that cannot be one.
    """
    return ApiKeys(Path(path)) if path else None


def _read(path: Path) -> tuple[list[Key], list[str]]:
    """Return the keys of a file, and what is wrong with lines that cannot be keys.

    Raises SettingsError where the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Some editors begin a file with a BOM.
    except (OSError, ValueError) as error:
        raise SettingsError(f"API_KEYS_FILE: {path} cannot be read: {error}") from error
    return parse_keys(text)


def _presented(authorization: str, api_key: str) -> str | None:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return api_key or None
