"""``imageserve plan``: what it prints, what it takes its numbers from, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.onnx_files import write_labels, write_onnx

from imageserve import measured
from imageserve.cli import main, plan
from imageserve.decoding import DecodingPolicy, open_picture
from imageserve.decoding.drawn import drawn_jpeg
from imageserve.preparation import Preparation
from imageserve.web.predict import LOOP_S

Capture = pytest.CaptureFixture[str]

RESNET = ("--rate", "1000", "--model", "resnet50")


def facts(capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def bench_file(folder: Path, **changes: Any) -> str:
    """Write what `imageserve models bench --json` prints."""
    engines = {
        "keras tensorflow float32": {
            "pictures_per_second": {"1": [30.0], "32": [40.0, 44.0, 90.0]}
        },
        "onnx bfloat16": {"pictures_per_second": {"1": [100.0], "8": [120.0], "32": []}},
    }
    bench = {"model": "flowers", "machine": "4 processors (EPYC)", "input_size": [96, 128]}
    file = folder / "bench.json"
    file.write_text(json.dumps({**bench, "engines": engines, **changes}))
    return str(file)


def test_it_prints_what_a_rate_takes_with_every_formula(capsys: Capture) -> None:
    assert main(["plan", *RESNET, "--picture", "500x375"]) == 0

    said = capsys.readouterr().out
    sections = [line for line in said.splitlines() if line and not line.startswith(" ")]
    assert sections[0].startswith("1,000 pictures/s, 500x375 as JPEGs of 58 KB, to resnet50")
    assert [each.split(" (")[0] for each in sections[1:]] == [
        "Web pods",
        "Model pods",
        "Redis",
        "Next wall",
        "Values of the chart",
        "Not known, and what tells it",
        "Measured",
    ]
    rows = {line[2:21].strip(): line[21:] for line in said.splitlines() if line.startswith("  ")}
    speed = measured.SPEEDS["resnet50", "keras"].per_second[32]
    assert rows["one pod"].split()[0] == f"{speed}/s"
    assert f"1,000/s / ({speed}/s x 60 %)" in said
    assert f"x {measured.LOGGED_TIMES} since the queue is kept on disk" in rows["cost of a picture"]
    for command in ("models bench", "python -m bench", "loadtest", "--measure", "simulate"):
        assert command in said.partition("Not known")[2]
    assert measured.TABLES in said.partition("Measured")[2]


def test_json_has_the_same_plan(capsys: Capture) -> None:
    found = facts(capsys, *RESNET)

    assert main(["plan", *RESNET]) == 0
    said = capsys.readouterr().out
    assert f"  web.replicas: {found['web']['pods']}\n" in said
    assert f"{found['redis']['connections']:,}" in said
    assert found["values"]["web"]["replicas"] == found["web"]["pods"]
    assert found["values"]["limits"]["queueLimit"] == found["redis"]["waiting"] == 5000
    assert "docs/performance.md" in found["sources"]["web"]
    assert found["unknown"]


def test_values_are_yaml_that_says_where_it_comes_from(capsys: Capture) -> None:
    assert main(["plan", *RESNET, "--clients-deadline", "2.5", "--values"]) == 0

    said = capsys.readouterr().out
    assert said.startswith("# imageserve plan --rate 1000 --model resnet50 --clients-deadline 2.5")
    values = yaml.safe_load(said)
    assert values["limits"]["requestTimeoutSeconds"] == 2.5
    assert values == facts(capsys, *RESNET, "--clients-deadline", "2.5")["values"]


def test_a_bench_result_gives_speeds_size_cores_and_precision(
    tmp_path: Path, capsys: Capture
) -> None:
    found = facts(capsys, "--rate", "10", "--model", bench_file(tmp_path))

    assert found["models"]["batch"] == 8, "the fastest"
    assert found["models"]["pod_per_s"] == pytest.approx(120)
    assert found["redis"]["picture_bytes"] == 96 * 128 * 3
    flowers = found["values"]["models"]["flowers"]
    assert flowers["network"] == "/models/flowers"
    assert (flowers["runtime"], flowers["precision"]) == ("onnx", "bfloat16")
    assert (flowers["batchSize"], flowers["threads"]) == (8, 4)


def test_a_runtime_is_taken_from_a_bench_result(tmp_path: Path, capsys: Capture) -> None:
    file = bench_file(tmp_path)

    found = facts(capsys, "--rate", "10", "--model", file, "--runtime", "keras")

    assert found["models"]["pod_per_s"] == pytest.approx(44), "the median"
    assert "keras tensorflow float32, 4 processors" in found["sources"]["worker"]


def test_a_model_folder_gives_the_size_and_worker_rate_the_speed(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "flowers"
    folder.mkdir()
    write_onnx(folder / "model.onnx")
    write_labels(folder / "labels.txt")

    found = facts(
        capsys,
        *("--rate", "100", "--model", str(folder), "--worker-rate", "25", "--batch-size", "16"),
        "--gpu",
    )

    assert (found["models"]["batch"], found["models"]["pod_per_s"]) == (16, 25)
    entry = found["values"]["models"]["flowers"]
    assert entry["gpu"] == {"count": 1}
    assert (entry["network"], entry["runtime"]) == ("/models/flowers", "onnx")
    assert "threads" not in entry


def test_measure_decodes_here(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MEASURED_S", 0.0)

    found = facts(capsys, *RESNET, "--picture", "640x480", "--measure")

    assert "decoding measured here" in found["sources"]["web"]
    known = facts(capsys, *RESNET, "--picture", "640x480")["costs"]
    ratios = [found["costs"][name] / known[name] for name in ("decode_ms", "rest_ms")]
    assert all(0.02 < ratio < 50 for ratio in ratios), "its own numbers, of the same kind"
    assert ratios[0] != 1


def test_a_machine_that_decodes_slowly_is_slow_at_the_rest_too(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = {measured.REFERENCE: 2 * measured.DECODE_MS, (640, 480): 50.0}
    monkeypatch.setattr(plan, "decode_ms", lambda size, *_: took[size])

    found = facts(capsys, *RESNET, "--picture", "640x480", "--measure")

    assert found["costs"]["decode_ms"] == 50
    assert found["costs"]["rest_ms"] == 2 * (measured.WEB_MS - measured.DECODE_MS)


def test_several_redis_nodes_are_told_with_both_ways_to_have_them(capsys: Capture) -> None:
    assert main(["plan", "--rate", "10000", "--model", "mobilenet_v2", "--runtime", "onnx"]) == 0

    said = capsys.readouterr().out
    assert "a Redis Cluster outside the chart" in said
    assert "releases of the chart behind one load" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "fast", "--model", "resnet50"], "--rate: must be a number"),
        (["--rate", "0", "--model", "resnet50"], "--rate: must be a number from 0.001"),
        ([*RESNET, "--peak", "0.5"], "--peak: must be a number from 1"),
        ([*RESNET, "--picture", "500"], "--picture: must be WIDTHxHEIGHT"),
        ([*RESNET, "--picture", "9000x6000"], "refuse more than 50,000,000 pixels"),
        ([*RESNET, "--picture", "8000x6000"], "10,485,760 bytes (MAX_IMAGE_BYTES"),
        ([*RESNET, "--clients-deadline", "2", "--worker-rate", "10"], "do not end within 2 s"),
        (["--rate", "1", "--model", "resnet"], "unknown model 'resnet': did you mean resnet"),
        (["--rate", "1", "--model", "vgg16"], "imageserve models bench vgg16 --json > bench.json"),
        ([*RESNET, "--gpu"], "no speed of resnet50 in keras on a GPU is known"),
        ([*RESNET, "--batch-size", "8"], "--batch-size: goes with --worker-rate"),
        (["--rate", "1", "--model", "/nowhere/bench.json"], "--model: /nowhere/bench.json: cannot"),
        (["--rate", "1", "--model", "/nowhere/flowers"], "/nowhere/flowers is not here"),
    ],
)
def test_what_it_cannot_use_is_one_line(arguments: list[str], said: str, capsys: Capture) -> None:
    assert main(["plan", *arguments]) == 1

    error = capsys.readouterr().err
    assert error.startswith("imageserve plan: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"model": "x"}',
        '{"model": "x", "engines": {}}',
        '{"model": "x", "engines": {"onnx float32": {"pictures_per_second": {"1": ["fast"]}}}}',
        '{"model": "x", "engines": {"cuda": {"pictures_per_second": {"1": [1.0]}}}}',
    ],
)
def test_another_json_is_refused(content: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "other.json").write_text(content)

    assert main(["plan", "--rate", "1", "--model", str(tmp_path / "other.json")]) == 1

    assert "is not what `imageserve models bench MODEL --json` prints" in capsys.readouterr().err


def test_a_runtime_that_was_not_measured_is_refused(tmp_path: Path, capsys: Capture) -> None:
    only = {"onnx float32": {"pictures_per_second": {"1": [1.0]}}}

    file = bench_file(tmp_path, engines=only)
    assert main(["plan", "--rate", "1", "--model", file, "--runtime", "keras"]) == 1

    assert "has onnx float32, none of keras" in capsys.readouterr().err


def test_web_processes_decode_beside_them_what_the_plan_says() -> None:
    small, large = (
        open_picture(drawn_jpeg(*sides), DecodingPolicy(fast_jpeg=True))
        for sides in ((700, 500), (2000, 1500))
    )

    assert small.pixels < measured.LOOP_PIXELS < large.pixels
    assert small.cost(Preparation((224, 224))).seconds <= LOOP_S
    assert large.cost(Preparation((224, 224))).seconds > LOOP_S


def test_the_drawn_picture_has_about_the_bytes_that_are_reckoned_with() -> None:
    for width, height in (measured.REFERENCE, (1600, 1200)):
        bytes_per_pixel = len(drawn_jpeg(width, height)) / (width * height)

        assert 0.7 < bytes_per_pixel / measured.JPEG_BYTES_PER_PIXEL < 1.3
