"""Which pages of other origins may call this server from a browser (CORS_ORIGINS).

A browser sends such a call only after the server has allowed it, and shows the page only those
headers of the answer that the server names.
"""

from collections.abc import Collection

ANY = "*"

_ALLOWED = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-API-Key, X-Request-Id, "
    "X-Request-Timeout",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = "Retry-After, Server-Timing, X-Model-Version, X-Request-Id"


class Cors:
    """The origins that are allowed: none, some, or all of them."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(origins)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return what an answer says to a page of this origin."""
        if not self._origins:
            return {}
        if ANY in self._origins:
            return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": _EXPOSED}
        # A cache must not give the answer for one origin to another one.
        if origin not in self._origins:
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": str(origin),
            "Access-Control-Expose-Headers": _EXPOSED,
            "Vary": "Origin",
        }

    def preflight(self, method: str, origin: str | None, asked: str | None) -> dict[str, str]:
        """Return what a browser is told that asks before it sends; nothing if it does not ask.

        ``asked`` is the header Access-Control-Request-Method.
        """
        if method != "OPTIONS" or asked is None:
            return {}
        told = self.headers(origin)
        return {**told, **_ALLOWED} if "Access-Control-Allow-Origin" in told else {}
