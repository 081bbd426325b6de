"""``python -m bench.fuzz.openapi``: schemathesis, on a service of this machine.

It reads the description of the API, sends what the description allows and what it forbids, and
holds every answer against it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.system.stack import Stack, running

from bench.fuzz.pictures import good_pictures
from bench.plan import say
from bench.processes import ROOT, redis_server

PROGRAM = ROOT / ".venv-schemathesis" / "bin" / "schemathesis"
KEY = "a-key-of-the-fuzz"

_API = Path(__file__).parent / "api"
_KINDS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp", b"GI": "gif", b"BM": "bmp"}
_LONG_S = 20_000.0
_LONGEST_LINE = 400
"""It prints whole pictures."""


class Findings(Exception):
    """What schemathesis has found, as it tells it."""


@contextmanager
def service(folder: Path, redis: str) -> Iterator[Stack]:
    """Run a service that asks for a key and has all kinds of outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n")
    env = {
        "MODEL": "stand-in:batch_ms=0,image_ms=0,size=32,classes=20,embedding=8",
        "API_KEYS_FILE": str(keys),
    }
    with running(folder / "stack", redis, workers=1, redis_args=(), place=None, **env) as stack:
        yield stack


def check(stack: Stack, folder: Path, *more: str, examples: int, seed: int, within_s: float) -> str:
    """Return the summary of a run without findings.

    ``more``: options of schemathesis. ``examples``: of random requests to each call. Raises
    Findings.
    """
    pictures = _write_pictures(folder / "pictures")
    command = [
        str(PROGRAM),
        f"--config-file={_API / 'schemathesis.toml'}",
        "--no-color",
        "run",
        f"http://127.0.0.1:{stack.port}/openapi.json",
        f"--max-examples={examples}",
        f"--seed={seed}",
        *more,
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(_API), "PICTURES": str(pictures)}
    done = subprocess.run(
        command,
        env={**_clean(os.environ), **hooks, "API_KEY": KEY},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=within_s,
    )
    said = "\n".join(line[:_LONGEST_LINE] for line in (done.stdout + done.stderr).splitlines())
    if done.returncode:
        raise Findings(said)
    return said


def _write_pictures(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for number, (_, data) in enumerate(good_pictures()):
        (folder / f"{number}.{_KINDS[data[:2]]}").write_bytes(data)
    return folder


def _clean(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if not name.startswith("PYTEST")}


def main() -> int:
    """Return 0 where nothing was found, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz.openapi", description=__doc__)
    parser.add_argument("--examples", type=int, default=500, help="of each call, default 500")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-openapi-"))
    say(f"seed {given.seed}, {given.examples} random requests to each call; logs are in {folder}")
    with service(folder, redis_server()) as stack:
        try:
            options = {"examples": given.examples, "seed": given.seed}
            print(check(stack, folder, **options, within_s=_LONG_S))
        except Findings as found:
            print(found)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
