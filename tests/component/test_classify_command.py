"""`imageserve classify`: what it takes, in which forms it answers, and when it stops."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faulty_server import FaultyServer, answer, refusal, serving

from imageserve.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with serving() as server:
        monkeypatch.setenv("IMAGESERVE_URL", server.url)
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, one more further down, and a file that is none."""
    (tmp_path / "below").mkdir()
    for name in ("b.jpg", "a.PNG", "below/c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def classify(*arguments: str) -> int:
    return main(["classify", *arguments])


@pytest.mark.parametrize(
    ("argument", "sent"),
    [
        (".", ["a.PNG", "b.jpg", "below/c.webp"]),
        ("*.jpg", ["b.jpg"]),
        ("**/*.[jw]*", ["b.jpg", "below/c.webp"]),
        ("notes.txt", ["notes.txt"]),
    ],
)
def test_files_folders_and_patterns(
    server: FaultyServer, folder: Path, capsys: Capture, argument: str, sent: list[str]
) -> None:
    assert classify(argument, "--json") == 0
    assert sorted(body.decode() for *_, body in server.asked) == sent
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["file"] for line in lines] == sent


def test_a_folder_without_pictures_and_a_pattern_without_files_are_told(
    server: FaultyServer, folder: Path, capsys: Capture
) -> None:
    (folder / "empty").mkdir()
    assert classify("empty") == 1
    assert "imageserve classify: empty has no pictures (.jpg, " in capsys.readouterr().err
    assert classify("*.bmp", "b.jpg") == 1
    assert "*.bmp: [Errno 2] No such file" in capsys.readouterr().err
    assert len(server.asked) == 1


def test_a_folder_that_goes_away_meanwhile_does_not_stop_it(
    server: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def scan(path: Any = ".") -> Any:
        if str(path).endswith("below"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)

    assert classify(".") == 0
    assert sorted(body.decode() for *_, body in server.asked) == ["a.PNG", "b.jpg"]


def test_a_picture_from_standard_input(
    server: FaultyServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a picture")))
    assert classify("-") == 0
    assert server.asked[0][2] == b"a picture"
    assert capsys.readouterr().out == "-\n  1. star: 0.9000\n"


def test_forms_of_the_answer(server: FaultyServer, folder: Path, capsys: Capture) -> None:
    predictions = [{"label": label, "probability": 0.5} for label in ("star", "a,b")]
    two = answer(200, {"success": True, "predictions": predictions})
    bad = refusal(400, "corrupt_image", X_Request_Id="r1")
    asked = ("a.PNG", "b.jpg", "--concurrency", "1", "--format")

    server.script += [two, bad]
    assert classify(*asked, "table") == 1
    said = capsys.readouterr()
    assert said.out == "a.PNG  star 0.5000  a,b 0.5000\n"
    assert said.err == "b.jpg: it is corrupt_image (corrupt_image, request r1)\n"

    server.script += [two, bad]
    assert classify(*asked, "csv") == 1
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [
        ["file", "rank", "label", "probability", "error", "message"],
        ["a.PNG", "1", "star", "0.5", "", ""],
        ["a.PNG", "2", "a,b", "0.5", "", ""],
        ["b.jpg", "", "", "", "corrupt_image", "it is corrupt_image"],
    ]

    server.script += [two, bad]
    assert classify(*asked, "jsonl") == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"file": "a.PNG", "success": True, "predictions": predictions},
        {
            "file": "b.jpg",
            "success": False,
            "error": {"code": "corrupt_image", "message": "it is corrupt_image"},
            "request_id": "r1",
        },
    ]


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (403, "forbidden"), (404, "unknown_model")]
)
def test_what_all_pictures_would_meet_stops_it(
    server: FaultyServer, folder: Path, capsys: Capture, status: int, code: str
) -> None:
    server.script += [refusal(status, code)] * 9
    assert classify("b.jpg", "b.jpg", "b.jpg", "--concurrency", "1") == 1
    assert capsys.readouterr().err.count(f"it is {code}") == 1
    assert len(server.asked) <= 2


def test_options_and_the_key_of_the_environment_are_sent(
    server: FaultyServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESERVE_API_KEY", "secret")
    classify("b.jpg", "--min", "0.25", "--priority", "background", "--timeout", "9")
    headers = server.asked[0][1]
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-priority"] == "background"
    assert float(headers["x-request-timeout"]) <= 9
    for wrong in ("0", "-1", "x"):
        with pytest.raises(SystemExit):
            classify("b.jpg", "--concurrency", wrong)


def test_a_terminal_shows_how_far_it_is_where_results_go_elsewhere(
    server: FaultyServer, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.script.append(refusal(400, "corrupt_image"))
    assert classify("a.PNG", "b.jpg", "--concurrency", "1") == 1
    said = capsys.readouterr()
    assert "2 of 2 pictures, 1 failed" in said.err
    assert "\x1b[Ka.PNG: it is corrupt_image" in said.err
    assert said.out == "b.jpg\n  1. star: 0.9000\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    classify("b.jpg")
    assert capsys.readouterr().err == ""


def test_without_the_extra_it_says_how_to_install_it(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("imageserve.client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    assert classify("b.jpg") == 1
    assert "pip install 'imageserve[client]'" in capsys.readouterr().err
