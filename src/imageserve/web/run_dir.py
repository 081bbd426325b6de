"""The directory that the web processes of one machine share."""

import os
import tempfile
from pathlib import Path

from imageserve.config.settings import Settings


def run_dir(settings: Settings) -> Path:
    """Return RUN_DIR, or a directory that is the same for every process of this user and port."""
    if settings.run_dir:
        return Path(settings.run_dir)
    return Path(tempfile.gettempdir()) / f"imageserve-{os.getuid()}-{settings.web_port}"
