"""Who may call ``/predict``: API keys from a file, where API_KEYS_FILE is set.

Only digests of the keys are kept, and a request is compared with all of them: so neither the memory
nor the response times of a process reveal a key.

A line is ``KEY``, or ``KEY name=value ...`` with options of that key.
"""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from imageserve.errors import Forbidden, SettingsError, Unauthorized
from imageserve.queue.wire import BACKGROUND

log = logging.getLogger(__name__)

CHECK_FILE_S = 5.0
"""Seconds between two checks of the file: a changed Secret is read without a restart."""

SHORTEST_KEY = 16

PRIORITIES = {"priority=interactive": "", f"priority={BACKGROUND}": BACKGROUND}
"""The options that a key may have."""


class _Key(NamedTuple):
    digest: bytes
    priority: str


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

    def priority(self, authorization: str, api_key: str) -> str:
        """Accept the headers ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

        Return the priority of the key. Raises Unauthorized where there is none, Forbidden where it
        is not in the file.
        """
        self._reload()
        key = _presented(authorization, api_key)
        if key is None:
            raise Unauthorized("an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        digest = _digest(key)
        matches = [key for key in self._keys if hmac.compare_digest(digest, key.digest)]
        if not matches:
            raise Forbidden("the API key is not valid")
        # Of a key that is there twice the lower one counts.
        return max(key.priority for key in matches)

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


def _read(path: Path) -> tuple[list[_Key], list[str]]:
    """Return the keys of a file, and what is wrong with lines that cannot be keys.

    Raises SettingsError where the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Some editors begin a file with a BOM.
    except (OSError, ValueError) as error:
        raise SettingsError(f"API_KEYS_FILE: {path} cannot be read: {error}") from error
    keys, wrong = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if stripped and not stripped.startswith("#"):
            try:
                keys.append(_key(stripped))
            except ValueError as error:
                wrong.append(f"line {number}: {error}")
    return keys, wrong


def _key(line: str) -> _Key:
    """Read one line. Raises ValueError, without any of its text, which is a secret."""
    first, *options = re.split("[ \t]+", line)
    if not (options and "=" in options[0]):  # A key may have spaces.
        first, options = line, []
    if strange := re.search("[^ -~]", first):
        raise ValueError(
            f"U+{ord(strange[0]):04X} cannot be in a key; use letters, digits and signs of ASCII"
        )
    if len(first) < SHORTEST_KEY:
        raise ValueError(f"a key has fewer than {SHORTEST_KEY} characters")
    for word, option in enumerate(options, start=2):
        if option not in PRIORITIES:
            known = " and ".join(PRIORITIES)
            raise ValueError(f"word {word} is no option of a key; known are {known}")
    if len(options) > 1:
        raise ValueError("the priority is given twice")
    return _Key(_digest(first), PRIORITIES[options[0]] if options else "")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _presented(authorization: str, api_key: str) -> str | None:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return api_key or None
