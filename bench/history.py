"""Unpacks the source of another commit, to run it beside the working tree.

It is run with a PYTHONPATH of its own and the libraries that are installed now.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.processes import ROOT

SOURCE = ROOT / "src"


class NotInHistory(Exception):
    """There is no git, no repository, or no such commit in it (a shallow clone)."""


def unpack(commit: str, folder: str, directory: Path) -> Path:
    """Write a folder of a commit below ``directory``; return its path. Raises NotInHistory."""
    tar_file = _git("archive", "--format=tar", commit, folder)
    directory.mkdir(parents=True, exist_ok=True)
    # Not tarfile: the first releases of Python 3.11 extract without a filter only.
    subprocess.run(["tar", "-x", "-C", str(directory)], input=tar_file, check=True)
    return directory / folder


def unpack_source(commit: str, directory: Path) -> Path:
    """Write the ``src`` of a commit below ``directory``; return its path.

    Raises NotInHistory, and RuntimeError where programs would import another imageserve all the
    same.
    """
    source = unpack(commit, "src", directory)
    for each in (source, SOURCE):
        if not (found := imported_from(each)).is_relative_to(each.resolve()):
            raise RuntimeError(f"PYTHONPATH={each} imports {found}")
    return source


def imported_from(source: Path) -> Path:
    """Return where a program that is started with this PYTHONPATH finds its imageserve."""
    said = subprocess.run(
        [sys.executable, "-c", "import imageserve; print(imageserve.__file__)"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return Path(said.strip()).resolve()


def name_of(commit: str) -> str:
    """Return the commit's short hash and subject.

    Raises NotInHistory.
    """
    return _git("show", "--no-patch", "--format=%h %s", f"{commit}^{{commit}}").decode().strip()


def name_of_working_tree() -> str:
    """Return the short hash of what is checked out, marked where code has changed since.

    Raises NotInHistory.
    """
    commit = _git("rev-parse", "--short", "HEAD").decode().strip()
    return commit + (", changed" if _git("status", "--porcelain", "--", "src", "bench") else "")


def _git(*arguments: str) -> bytes:
    if shutil.which("git") is None:
        raise NotInHistory("git is not installed")
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        raise NotInHistory(done.stderr.decode(errors="replace").strip())
    return done.stdout
