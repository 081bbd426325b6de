"""What is said where a model's files cannot be looked at."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imageserve.errors import ModelLoadError


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Give the mend for what the system says of files, which are called ``what``.

    Asking whether a file exists may fail, too: in a folder that may not be looked into, as a volume
    is for a container that runs as another user.

    Raises:
        ModelLoadError: in place of any OSError.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ModelLoadError(f"{what} does not exist: correct its path") from error
    except OSError as error:
        raise ModelLoadError(
            f"{what} cannot be read ({error.strerror}): allow it, and to look into its folders, to "
            f"the user of this process ({os.geteuid()})"
        ) from error


def check_file(what: str, path: Path) -> None:
    """Raise ModelLoadError unless the file at ``path``, which is ``what``, is there to be read.

    The engines report one that may not be read as missing, or as broken.
    """
    with reading(f"{what} {path}"):
        path.open("rb").close()
