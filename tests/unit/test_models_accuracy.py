"""How often a model is right: classes of folders, ranks, and how progress is shown."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from imageserve.cli.progress import Progress
from imageserve.errors import SettingsError
from imageserve.models.accuracy import FEW, Accuracy, classes_of_folders, ids_of_classes

LABELS = ("great white shark", "crane", "crane", "Egyptian_cat")
IDS = ("n01484850", "n02012849", "n03126707", "n02124075")


@pytest.mark.parametrize(
    ("names", "labels", "ids", "classes"),
    [
        pytest.param(["great white shark", "Egyptian_cat"], LABELS, (), [0, 3], id="labels"),
        pytest.param(["Great-White_Shark", "egyptian cat"], LABELS, (), [0, 3], id="alike"),
        pytest.param(["n03126707", "n01484850"], LABELS, IDS, [2, 0], id="ids"),
        pytest.param(["n02012849", "Egyptian cat"], LABELS, IDS, [1, 3], id="ids and labels"),
        pytest.param(["0", "03", "1"], LABELS, IDS, [0, 3, 1], id="numbers"),
        pytest.param(["7", "3"], ("3", "5", "7"), (), [2, 0], id="labels that are numbers"),
        pytest.param(["n1", "n2"], ("n2", "n1"), ("n1", "n2"), [1, 0], id="labels before ids"),
        pytest.param(["a-b", "a b"], ("a b", "a-b"), (), [1, 0], id="exactly before alike"),
    ],
)
def test_a_folder_is_named_by_label_id_or_number(
    names: list[str], labels: tuple[str, ...], ids: tuple[str, ...], classes: list[int]
) -> None:
    assert classes_of_folders(names, labels, ids) == dict(zip(names, classes, strict=True))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Egyptian_cat", "dog"], "1 of 2 folders name no class of the model: dog. "),
        (["crane"], "crane; two classes have the label crane. "),
        (["0", "4"], "1 of 2 folders name no class of the model: 4. "),
        ([f"x{n}" for n in range(9)], "9 of 9 folders name no class of the model: x0, x1, x2, "),
    ],
)
def test_a_folder_of_no_class_is_named_with_what_it_may_be_called(
    names: list[str], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        classes_of_folders(names, LABELS, IDS)

    assert said in str(caught.value)
    assert "its label (great white shark, crane, crane, ...), its id (n01484850)" in str(
        caught.value
    )
    assert "its number (0 to 3)" in str(caught.value)


def test_ids_are_those_of_the_labels_file_or_of_imagenet(tmp_path: Path) -> None:
    own = tmp_path / "labels.json"
    own.write_text(json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog"]}))
    lines = tmp_path / "labels.txt"
    lines.write_text("cat\ndog")

    assert ids_of_classes(own, 2) == ("n1", "n2")
    assert ids_of_classes(lines, 2) == ()
    assert ids_of_classes(lines, 1000)[285] == "n02124075"


def test_answers_are_counted_as_sorting_them_would() -> None:
    random = np.random.default_rng(0)
    # Few values, so that many are equal.
    scores = random.integers(0, 4, (500, 12)).astype(np.float32)
    classes = random.integers(0, 12, 500).tolist()
    found = Accuracy()
    for begin in range(0, 500, 7):
        found.add(scores[begin : begin + 7], classes[begin : begin + 7])

    order = np.argsort(-scores, axis=1, kind="stable")
    assert found.pictures == 500
    assert found.right == int((order[:, 0] == classes).sum())
    assert found.among_few == int((order[:, :FEW] == np.array(classes)[:, None]).any(axis=1).sum())
    pairs = [(a, b) for a, b in zip(classes, order[:, 0].tolist(), strict=True) if a != b]
    right, best, number = next(found.worst(1))
    assert number == pairs.count((right, best)) == max(map(pairs.count, pairs))
    assert len(list(found.worst(3))) == 3
    assert found.of_class == {n: classes.count(n) for n in range(12)}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen, now = Terminal(), 0.0
    progress = Progress(200, "pictures", screen, lambda: now)
    for done in range(1, 201):
        now += 0.05
        progress.show(done, "90 % right")
        if done == 150:
            progress.say("a.jpg: broken")
    progress.end()

    shown = screen.getvalue().split("\r\x1b[K")
    assert len(shown) < 110
    assert shown[1] == f"[{'.' * 20}] 2 of 200 pictures, 90 % right, 10 s left"
    assert "a.jpg: broken\n" in shown
    assert shown[-1] == f"[{'#' * 20}] 200 of 200 pictures, 90 % right\n"


def test_a_bar_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    screen = Terminal()
    Progress(2, "pictures", screen).show(2, "right " * 20)

    assert len(screen.getvalue().removeprefix("\r\x1b[K")) == 39


def test_progress_is_a_line_now_and_then_elsewhere() -> None:
    file, now = io.StringIO(), 0.0
    progress = Progress(1000, "pictures", file, lambda: now)
    for done in range(1, 1001):
        now += 0.03
        progress.show(done, "fine")
    progress.end()

    lines = file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["334", "668", "1000"]
    assert "\r" not in file.getvalue()
