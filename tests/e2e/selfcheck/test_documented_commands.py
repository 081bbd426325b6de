"""The commands of docs/kubernetes.md and of images/build.sh, run as they stand.

The programs that need a cluster or a builder are stand-ins that write down how they were called.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.chart.helm import ROOT
from tests.e2e.commands import CommandError, located

DOCUMENT = ROOT / "docs" / "kubernetes.md"
NAMES = ("web", "model", "autoscaler", "loadtest")

KUBECTL = """
case "$1" in
    create) printf 'networkpolicy.networking.k8s.io/loadtest\\njob.batch/loadtest-1\\n' ;;
    get)
        [ "$4" = job.batch/loadtest-1 ] || exit 1
        state=$(ls state-* | head -n 1) && [ -n "$state" ] || exit 1
        "$REAL" annotate --local --filename "$state" a=b "$5" "$6"
        rm "$state"
        ;;
    logs) [ "$5" = batch.kubernetes.io/job-name=loadtest-1 ] && echo "a result" ;;
esac
"""


def program(folder: Path, name: str, script: str = "") -> None:
    """Write a stand-in that logs its call, then runs a script."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{folder}/calls"\n{script}\n')
    path.chmod(0o755)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def block_below(heading: str) -> str:
    """Return the first shell commands below a heading of the document."""
    text = DOCUMENT.read_text().partition(f"\n## {heading}\n")[2]
    found = re.search(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


# -- the load test in the cluster ------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Programs on PATH: stand-ins, and the real kubectl where it reads what a Job says."""
    try:
        kubectl = located("kubectl", tmp_path)
    except CommandError as error:
        pytest.skip(str(error))
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin", "kubectl", f"REAL={kubectl}\n{KUBECTL}")
    program(tmp_path / "bin", "imageserve", f"cat > {tmp_path}/merged")
    for name in ("helm", "sleep"):
        program(tmp_path / "bin", name)
    return tmp_path


def conditions(*true: str) -> Any:
    return [
        {"type": "Suspended", "status": "False"},
        *({"type": t, "status": "True"} for t in true),
    ]


def follow(machine: Path, *states: Any) -> list[str]:
    """Run the documented commands while the Job has these conditions; returns the calls."""
    for i, state in enumerate(states):
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "loadtest-1"}}
        status = {"status": {"conditions": state} if state else {"active": 2}}
        (machine / f"state-{i}").write_text(json.dumps({**job, **status}))
    subprocess.run(
        ["/bin/sh", "-e"],
        input=block_below("Load test inside the cluster"),
        cwd=machine,
        env={"PATH": f"{machine}/bin:{os.defpath}", "HOME": str(machine)},
        text=True,
        timeout=60,
        check=True,
    )
    return calls(machine / "bin")


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(("SuccessCriteriaMet", "Complete"), id="the verdict holds"),
        pytest.param(("FailureTarget", "Failed"), id="the verdict does not hold"),
    ],
)
def test_the_commands_of_the_load_test_end_with_the_job_however_it_ends(
    machine: Path, end: tuple[str, ...]
) -> None:
    done = follow(machine, None, None, conditions(end[0]), conditions(*end), conditions(*end))

    asked = [each for each in done if each.startswith("kubectl get")]
    assert (len(asked), done.count("sleep 2")) == (4, 3)
    assert not [each for each in done if each.startswith("kubectl wait")]
    assert "imageserve loadtest merge - --html stress.html" in done
    assert done[-1] == "kubectl delete --filename stress.yaml"
    assert (machine / "merged").read_text() == "a result\n"


def test_they_end_if_the_job_is_gone(machine: Path) -> None:
    done = follow(machine, None)

    assert sum(each.startswith("kubectl get") for each in done) == 2


# -- images without a registry ---------------------------------------------------------------------


def build(folder: Path, *options: str, engine: str = "buildah") -> subprocess.CompletedProcess[str]:
    for name in ("buildah", "docker"):
        program(folder, name)
    return subprocess.run(
        [ROOT / "images" / "build.sh", "--engine", engine, "--tag", "1.0", *options],
        env={
            "PATH": f"{folder}:{os.defpath}",
            "PYTHON": sys.executable,
            "SOURCE_DATE_EPOCH": "1700000000",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("engine", "options", "written"),
    [
        pytest.param(
            "buildah",
            (),
            "push localhost/imageserve/web:1.0 "
            "docker-archive:{0}/web.tar:docker.io/imageserve/web:1.0",
            id="buildah without a registry",
        ),
        pytest.param(
            "buildah",
            ("--repository", "registry.test:5000/team"),
            "push registry.test:5000/team/web:1.0 "
            "docker-archive:{0}/web.tar:registry.test:5000/team/web:1.0",
            id="buildah with a registry",
        ),
        pytest.param(
            "docker", (), "save --output {0}/web.tar imageserve/web:1.0", id="docker names it so"
        ),
    ],
)
def test_a_saved_image_has_the_name_that_pods_ask_for(
    tmp_path: Path, engine: str, options: tuple[str, ...], written: str
) -> None:
    done = build(tmp_path, "web", "--save", str(tmp_path), *options, engine=engine)

    assert done.returncode == 0, done.stderr
    assert calls(tmp_path)[1:] == [f"{engine} {written.format(tmp_path)}"]


def test_an_older_file_is_written_anew(tmp_path: Path) -> None:
    # buildah refuses to write into an archive that exists.
    (tmp_path / "web.tar").touch()

    assert build(tmp_path, "web", "--save", str(tmp_path)).returncode == 0
    assert not (tmp_path / "web.tar").exists()


def test_a_folder_that_is_not_there_is_named_before_the_build(tmp_path: Path) -> None:
    done = build(tmp_path, "web", "--save", str(tmp_path / "nowhere"))

    assert (done.returncode, done.stderr) == (
        2,
        f"build.sh: there is no folder {tmp_path}/nowhere\n",
    )
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("engine", "option"),
    [("buildah", "--timestamp 1700000000"), ("docker", "SOURCE_DATE_EPOCH=1700000000")],
)
def test_the_times_in_an_image_are_pinned(tmp_path: Path, engine: str, option: str) -> None:
    done = build(tmp_path, "web", "--base", f"b@sha256:{'0' * 64}", engine=engine)

    assert done.returncode == 0, done.stderr
    (call,) = calls(tmp_path)
    assert option in call
    assert "CREATED=2023-11-14T22:13:20Z" in call
    assert f"image.base.digest=sha256:{'0' * 64}" in call
    assert re.search(r"--label imageserve\.lock=[0-9a-f]{64} locks/web\.txt", call)


def test_what_is_in_an_image_is_written_beside_it(tmp_path: Path) -> None:
    done = build(tmp_path, "web", "--sbom")
    assert done.returncode == 2
    assert "add --save DIR" in done.stderr
    assert not (tmp_path / "calls").exists()

    done = build(tmp_path, "web", "--sbom", "--save", str(tmp_path))
    assert f"{tmp_path}/web.tar: " in done.stderr  # The stand-in for buildah has written none.
    assert done.returncode == 1


def test_verify_looks_at_the_files_and_builds_nothing(tmp_path: Path) -> None:
    done = build(tmp_path, "web", "model", "--verify", str(tmp_path))

    assert done.returncode == 1
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [
        f"{tmp_path}/{name}.tar" for name in ("web", "model")
    ]
    assert not (tmp_path / "calls").exists()


def test_the_documents_import_every_image_that_is_built() -> None:
    text = DOCUMENT.read_text()
    (loop,) = re.findall(r"^for name in (.*); do sudo ctr .*import", text, re.MULTILINE)

    assert tuple(loop.split()) == NAMES
    assert "localhost/imageserve" in (ROOT / "docs" / "images.md").read_text()
