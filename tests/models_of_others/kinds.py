"""The ten kinds: what their libraries wrote and answered is kept, docs/models.md describes them."""

import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

from tests.models_of_others.teaching import NAMES, PICTURES, Classify
from tests.system.client import at_once
from tests.system.stack import Stack, running

HERE = Path(__file__).parent
KEPT = HERE / "kept"
"""Per kind, the folder that its script has made."""
ANSWERS = KEPT / "answers.json"
"""Per kind and picture, what its own library answered: a number for each label."""
KINDS = tuple(sorted(path.stem.removeprefix("make_") for path in HERE.glob("make_*.py")))

DOCUMENT = HERE.parents[1] / "docs" / "models.md"
_EXAMPLE = re.compile(
    r"^ *<!-- example: (\S+) -->\n( *)```\w+\n(.*?)^\2```", re.MULTILINE | re.DOTALL
)

Answers = Mapping[str, list[float]]
"""By the name of the picture."""


def tolerance(kind: str) -> float:
    return 1e-2 if kind == "float16" else 1e-4


def kept_answers() -> dict[str, Answers]:
    found: dict[str, Answers] = json.loads(ANSWERS.read_text())
    return found


def made(kind: str, folder: Path) -> Answers:
    """Have a kind's library write its files into ``folder``; return its answers."""
    folder.mkdir(parents=True)
    classify: Classify = import_module(f"tests.models_of_others.make_{kind}").make(folder)
    return {name: classify(PICTURES / name) for name in NAMES}


def examples() -> dict[str, str]:
    """Return the examples of the document by name."""
    found = _EXAMPLE.findall(DOCUMENT.read_text(encoding="utf-8"))
    return {name: textwrap.dedent(text) for name, _, text in found}


def described(kind: str, folder: Path) -> Path:
    """Write the ``imageserve.yaml`` of the document into a kind's folder, if there is one."""
    text = examples().get(f"{kind}/imageserve.yaml")
    if text is not None:
        (folder / "imageserve.yaml").write_text(text)
    return folder


def kept(kind: str, parent: Path) -> Path:
    """Return a copy of the kept folder, with what the document adds."""
    return described(kind, Path(shutil.copytree(KEPT / kind, parent / kind)))


@contextmanager
def serving(folders: Mapping[str, Path], directory: Path, redis_program: str) -> Iterator[Stack]:
    """Serve all kinds at once, each by a worker of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "models.yaml"
    entries = (f"{name}: {{queue: {name}, network: {path}/}}\n" for name, path in folders.items())
    file.write_text("".join(entries))
    settings = {"MODELS_FILE": str(file), "MODEL": "", "BATCH_SIZE": "2"}
    # With either, a photograph would have other pixels than the libraries give it.
    settings |= {"FAST_JPEG": "0", "FAST_RESIZE": "0"}
    with running(
        directory, redis_program, workers=0, redis_args=(), place=None, **settings
    ) as stack:
        for name in folders:
            stack.start_worker(wait=False, MODEL=name, MODEL_THREADS="1")
        for worker in stack.workers:
            stack.wait_for(partial(worker.lines, "ready"), f"{worker.name} is ready", 120)
        yield stack


def answers_over_http(stack: Stack, kind: str) -> Answers:
    """Return what a kind answers, in the order of its labels as its folder has them."""
    calls = [
        partial(stack.http.predict, (PICTURES / name).read_bytes(), f"?model={kind}&top=9")
        for name in NAMES
    ]
    found = {}
    for name, reply in zip(NAMES, at_once(calls), strict=True):
        assert reply.status == 200, reply.text
        found[name] = {each["label"]: each["probability"] for each in reply.json["predictions"]}
    return {name: [each[label] for label in labels_of(kind)] for name, each in found.items()}


def labels_of(kind: str) -> list[str]:
    folder = KEPT / kind
    if (folder / "labels.txt").exists():
        return (folder / "labels.txt").read_text().split("\n")[:-1]
    config = json.loads((folder / "config.json").read_text())
    return config.get("label_names") or list(config["id2label"].values())
