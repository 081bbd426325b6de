"""The page at ``/``: pictures are dropped into a browser, and their labels are shown (WEB_PAGE).

Its files are read once, when the application is built. The little that they cannot know stands in
attributes of the page's body: limits, formats and whether an API key is needed. All else the page
asks of ``/models``, ``/status`` and ``/predict``, as any client does.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from imageserve import __version__
from imageserve.config.settings import Settings

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob:",  # Previews are made of the user's files, in the browser.
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Asked for each time, so that no page meets the scripts of another release for long.
    "Cache-Control": "no-cache",
}
"""What each answer with a file of the page carries."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent."""

    body: bytes
    content_type: str

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.body).hexdigest()[:32]


NO_PAGE: Mapping[str, PageFile] = {}
"""The files where WEB_PAGE is off."""


def page_files(settings: Settings) -> dict[str, PageFile]:
    """Return the files by their paths on the server: ``/``, and those below ``/page/``."""
    found = {
        f"/page/{file.name}": PageFile(file.read_bytes(), _TYPES[suffix])
        for file in files(__package__).iterdir()
        if (suffix := file.name.rpartition(".")[2]) in _TYPES
    }
    index = found.pop("/page/index.html")
    text = Template(index.body.decode()).substitute(_facts(settings))
    return {"/": PageFile(text.encode(), index.content_type), **found}


def _facts(settings: Settings) -> dict[str, str]:
    facts = {
        "version": __version__,
        "formats": " ".join(sorted(settings.image_formats)),
        "max_image_bytes": str(settings.max_image_bytes),
        "needs_key": "yes" if settings.api_keys_file else "no",
    }
    return {name: escape(fact) for name, fact in facts.items()}
