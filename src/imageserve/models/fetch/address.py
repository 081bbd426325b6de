"""Where a model can be fetched from, as its address says it. Nothing is read here."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from imageserve.errors import ModelLoadError

ARCHIVES = (".tar.gz", ".tgz", ".zip")
MODEL_FILES = (".onnx", ".keras")
STORES = ("s3", "gs", "az")
"""Object stores: an address is a folder, unless it ends like one file."""
_EXAMPLES = (
    "https://HOST/flowers.tar.gz, s3://BUCKET/flowers/2026-02, gs:// or az:// likewise, or "
    "hf://OWNER/NAME@REVISION"
)
_HUB = re.compile(r"hf://([\w.-]+)/([\w.-]+)(?:@([\w./-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """The address of one model."""

    address: str
    """Whole, with what may be secret in it."""
    scheme: str
    ending: str | None
    """One of `ARCHIVES` or `MODEL_FILES` where it is a single file, None for a folder."""

    @property
    def shown(self) -> str:
        """The address for messages and records: without a password or a signature."""
        parts = urlsplit(self.address)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    @property
    def repository(self) -> tuple[str, str]:
        """The ``OWNER/NAME`` and the revision of a repository of Hugging Face."""
        match = _HUB.fullmatch(self.address)
        assert match is not None
        return f"{match[1]}/{match[2]}", match[3] or "main"


def is_address(text: str) -> bool:
    return "://" in text


def parse_origin(text: str) -> Origin:
    """Read an address. Raises ModelLoadError where nothing can be fetched from there."""
    scheme = text.partition("://")[0].lower()
    if scheme == "hf":
        if not _HUB.fullmatch(text):
            raise ModelLoadError(f"{text} is no repository: write hf://OWNER/NAME@REVISION")
        return Origin(text, scheme, None)
    if scheme not in ("https", *STORES):
        raise ModelLoadError(f"nothing can be fetched from {scheme}://: use {_EXAMPLES}")
    parts = urlsplit(text)
    found = Origin(text, scheme, _ending(parts.path))
    if not parts.netloc or (scheme != "https" and parts.query):
        raise ModelLoadError(f"{found.shown} is no address: use {_EXAMPLES}")
    if scheme == "https" and found.ending is None:
        raise ModelLoadError(
            f"{found.shown} is no single file: a web server gives one that ends in "
            f"{', '.join((*ARCHIVES, *MODEL_FILES))}"
        )
    return found


def inside(name: str) -> PurePosixPath:
    """Return the name of a file as a path that stays in its folder.

    Raises ModelLoadError where it would not, or cannot be written into a list of checksums.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        raise ModelLoadError(f"{name!r} leaves the model's folder: make the archive of that folder")
    if not name.isprintable():
        raise ModelLoadError(f"{name!r} has control characters: rename the file")
    return path


def _ending(path: str) -> str | None:
    lower = path.lower()
    return next((each for each in (*ARCHIVES, *MODEL_FILES) if lower.endswith(each)), None)
