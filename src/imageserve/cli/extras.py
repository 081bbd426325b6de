"""Commands that come with another distribution, found by their entry points.

``imageserve-loadtest`` has the load test and the autoscaler's simulator. Serving images do not
contain it.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from imageserve.errors import ImageserveError

GROUP = "imageserve.commands"

Command = Callable[[Sequence[str], Mapping[str, str]], int]


class NotInstalled(ImageserveError):
    """The distribution with this command is missing. The message says how to install it."""


def note_if_missing(name: str) -> str:
    """Return what the help says behind a command: nothing where it is installed."""
    return "" if _entry_point(name) else " (not installed)"


def extra_command(name: str) -> Command:
    """Import a command of another distribution.

    Raises:
        NotInstalled: no distribution has it.
    """
    found = _entry_point(name)
    if found is None:
        raise NotInstalled(
            "this command is not installed; install it with: pip install imageserve-loadtest"
        )
    command: Command = found.load()
    return command


def _entry_point(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=GROUP, name=name)), None)
