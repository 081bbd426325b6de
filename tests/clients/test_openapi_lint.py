"""The description of the API, as redocly's linter judges it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.clients.conftest import ROOT

from imageserve.web.openapi import Served, document
from imageserve.web.upload import UploadLimits

NODE = ROOT / ".venv-node"


@pytest.mark.parametrize("needs_key", [False, True])
def test_the_linter_has_nothing_to_say(tmp_path: Path, needs_key: bool) -> None:
    served = Served(
        ["shapes"], UploadLimits(2**25, 2**20, 16, 10.0), ["jpeg", "png"], 30.0, needs_key
    )
    (tmp_path / "openapi.json").write_text(json.dumps(document(served), indent=1))

    done = subprocess.run(
        [
            NODE / "node_modules/.bin/redocly",
            "lint",
            "--extends=recommended-strict",
            "openapi.json",
        ],
        env={"PATH": f"{NODE / 'bin'}:{os.environ['PATH']}", "REDOCLY_TELEMETRY": "off"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert done.returncode == 0, done.stdout + done.stderr
