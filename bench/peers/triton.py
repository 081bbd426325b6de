"""Triton's model repository, and the command and the libraries that its server needs.

The wheel ``nvidia-pytriton`` carries the native server. It is started without that wheel's Python
part, on models of the Python backend, as on a machine where Triton itself is installed.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from bench.processes import free_port

BATCH_SIZE = 32
WEB_PROCESSES = 2

_SERVERS = Path(__file__).with_name("servers")
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

_MODEL = """\
backend: "python"
max_batch_size: {batch_size}
input [ {{ name: "{input[0]}" data_type: {input[1]} dims: {input[2]} }} ]
output [ {{ name: "{output[0]}" data_type: {output[1]} dims: {output[2]} }} ]
instance_group [ {{ count: {count} kind: KIND_CPU }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {window_us}
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {deadline_us}
    allow_timeout_override: true
  }}
}}
"""

_ENSEMBLE = """\
platform: "ensemble"
max_batch_size: {batch_size}
input [ {{ name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "ANSWER" data_type: TYPE_STRING dims: [ 1 ] }} ]
ensemble_scheduling {{ step [
  {{ model_name: "preprocess" model_version: -1
     input_map {{ key: "IMAGE" value: "IMAGE" }}
     output_map {{ key: "PIXELS" value: "pixels" }} }},
  {{ model_name: "inference" model_version: -1
     input_map {{ key: "PIXELS" value: "pixels" }}
     output_map {{ key: "ANSWER" value: "ANSWER" }} }}
] }}
"""

_IMAGE = ("IMAGE", "TYPE_STRING", "[ 1 ]")
_PIXELS = ("PIXELS", "TYPE_UINT8", "[ 224, 224, 3 ]")
_ANSWER = ("ANSWER", "TYPE_STRING", "[ 1 ]")


def write_repository(place: Path, settings: Mapping[str, str]) -> None:
    """Write an ensemble: two instances that decode, one that batches and runs the model.

    The settings are those of ``servers/shared.py``. The deadline limits the wait for each step.
    """
    deadline_us = int(settings.get("PEER_DEADLINE_MS", "0")) * 1000
    # An instance decodes one picture at a time: the other one takes the next.
    decoding = _MODEL.format(
        batch_size=1,
        count=WEB_PROCESSES,
        window_us=0,
        input=_IMAGE,
        output=_PIXELS,
        deadline_us=deadline_us,
    )
    model = _MODEL.format(
        batch_size=settings.get("PEER_BATCH_SIZE", BATCH_SIZE),
        count=1,
        window_us=int(settings["PEER_WINDOW_MS"]) * 1000,
        input=_PIXELS,
        output=_ANSWER,
        deadline_us=deadline_us,
    )
    for name, config in (("preprocess", decoding), ("inference", model)):
        _write(place / name, config)
        shutil.copy(_SERVERS / f"triton_{name}.py", place / name / "1" / "model.py")
    _write(place / "classify", _ENSEMBLE.format(batch_size=1))


def _write(model: Path, config: str) -> None:
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(config)


def command(programs: Path, repository: Path, port: int) -> list[str]:
    """Return how the server is started, with the stub of this Python beside the backend."""
    server = _site_packages(programs) / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / _VERSION / "triton_python_backend_stub"
    place = server / "backends" / "python"
    if not (place / stub.name).exists():  # It cannot be written while another server runs it.
        shutil.copy(stub, place)
    # The shared memory of two servers must not have the same name.
    prefix = f"python,shm-region-prefix-name=bench-{port}-"
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        f"--backend-config={prefix}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--http-thread-count=4",
        "--allow-grpc=false",
        f"--metrics-port={free_port()}",
        "--log-info=false",
    ]


def settings(programs: Path, root: Path) -> Mapping[str, str]:
    """Return the variables with which server and stub find their libraries and packages."""
    packages = _site_packages(programs)
    libraries = (packages / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR")))
    return {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        # The Python inside the stub belongs to the environment of the first python on PATH.
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
    }


def _site_packages(programs: Path) -> Path:
    return programs.parent / "lib" / f"python{_VERSION}" / "site-packages"
