"""A whole service with the bundled model, for clients that others wrote."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.redis_server import eventually, executables, free_port
from tests.system.client import Client
from tests.system.stack import SOURCE, START_S, Stack, running

ROOT = SOURCE.parent
PICTURES = [ROOT / "loadtest" / "images" / name for name in ("star-1.jpg", "heart-2.png")]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("clients")
    with running(folder, executables()[0].found(), MODEL="shapes") as stack:
        yield stack


@pytest.fixture(scope="session")
def addresses(stack: Stack) -> dict[str, str]:
    """Where the Open Inference Protocol is served, by what carries it."""
    port, probes = free_port(), free_port()
    stack.run("grpc", "grpc", GRPC_PORT=str(port), METRICS_PORT=str(probes))
    eventually(lambda: Client(probes).status_of("/readyz") == 200, "gRPC is ready", START_S)
    return {"http": f"127.0.0.1:{stack.port}", "grpc": f"127.0.0.1:{port}"}


@pytest.fixture(scope="session")
def predicted(stack: Stack) -> list[dict[str, float]]:
    """The labels of the pictures with their probabilities, as ``/predict`` answers them."""
    replies = [stack.http.predict(path.read_bytes(), "?top=all") for path in PICTURES]
    return [{p["label"]: p["probability"] for p in r.json["predictions"]} for r in replies]


def asked(environment: str, script: str, *arguments: str) -> Any:
    """Run one of the scripts beside this file in the environment of its client."""
    program = ROOT / f".venv-{environment}" / "bin" / "python"
    command = [str(each) for each in (program, Path(__file__).with_name(script), *PICTURES)]
    command[2:2] = arguments
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
