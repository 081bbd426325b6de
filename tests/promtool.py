"""Prometheus's own tool, of the package ``prometheus``: it judges alerts and metrics."""

import shutil
import subprocess
from pathlib import Path

from tests.chart.helm import missing


def promtool(*arguments: str | Path, text: str = "") -> str:
    """Run it and return what it says; an AssertionError with that where it is not content.

    Where it is missing the test fails with ``CI=true``, and is skipped at home.
    """
    program = shutil.which("promtool")
    if program is None:
        missing("promtool is missing (Debian, Ubuntu: apt install prometheus)")
    done = subprocess.run(
        [program, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
