"""Why something failed, in one cell of a table."""

from bench.peers.environments import NotInstalled


def why(error: NotInstalled | SystemExit) -> str:
    """Return why a system failed.

    Raises the error again where it is no failure: the benchmark itself is told to end.
    """
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        raise error
    return last_line(str(error))


def last_line(text: str) -> str:
    """Shorten what a process said at its end to one cell of a table."""
    lines = text.strip().splitlines() or ["no reason was given"]
    return lines[-1].strip().replace("|", "/")[:100]
