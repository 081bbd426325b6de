"""The Python client against the whole service, and what docs/clients.md says of it."""

import asyncio
import io
import os
import re
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.pictures import photo
from tests.promtool import promtool
from tests.system.samples import label_of, samples
from tests.system.stack import STAND_IN, Stack, clean_environment, running

from imageserve.client import (
    AsyncClient,
    BadPicture,
    BadRequest,
    Client,
    Forbidden,
    RateLimited,
    TooLarge,
    Unauthorized,
    UnknownModel,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
KEY = "a-key-of-this-test"
SLOW_KEY, STOPPED_KEY = "a-slow-key-of-this-test", "a-stopped-key-of-this-test"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("client")
    keys = directory / "keys"
    keys.write_text(
        f"{KEY}\n{SLOW_KEY} name=slow rate=2 burst=1\n{STOPPED_KEY} name=stopped rate=0.001\n"
    )
    model = f"{STAND_IN},embedding=12"
    with running(directory, redis_program, MODEL=model, API_KEYS_FILE=str(keys)) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(url_of(stack), api_key=KEY) as client:
        yield client


def url_of(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.port}"


def test_a_picture_in_any_form_gets_its_label(client: Client, tmp_path: Path) -> None:
    image = photo(80, 60, 7)
    file = tmp_path / "picture.png"
    image.save(file)
    label = label_of(file.read_bytes())
    for picture in (file, str(file), file.read_bytes(), image, np.asarray(image)):
        result = client.classify(picture)
        assert result.predictions[0].label == label
        assert len(result.predictions) == 5
        assert result.timing_ms.keys() >= {"decode", "queue", "model", "total"}
        assert result.request_id


def test_an_image_with_an_orientation_is_turned_like_its_file(client: Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    photo(80, 60, 8).save(file, "PNG", exif=exif)
    of_file = client.classify(file.getvalue()).predictions
    assert client.classify(Image.open(file)).predictions == of_file
    assert client.classify(photo(80, 60, 8)).predictions[0] != of_file[0]


def test_options_reach_the_server(client: Client) -> None:
    picture = samples(1)[0]
    assert len(client.classify(picture.data, top=2, priority="background").predictions) == 2
    assert len(client.classify(picture.data, top="all").predictions) == 1000
    assert len(client.classify(picture.data, min=0.5).predictions) == 1
    embedding = client.classify(picture.data, output="embedding").vector
    assert isinstance(embedding, array)
    assert bytes(map(int, embedding)).decode() == picture.label
    assert np.asarray(client.classify(picture.data, output="scores").vector).shape == (1000,)


def test_the_errors_of_the_server_have_their_classes(stack: Stack, client: Client) -> None:
    picture = samples(1)[0].data
    with pytest.raises(BadPicture) as raised:
        client.classify(b"no picture")
    assert raised.value.code == "not_an_image"
    assert raised.value.request_id in str(raised.value)
    assert raised.value.status == 400
    with pytest.raises(TooLarge):
        client.classify(bytes(11 * 2**20))
    with pytest.raises(UnknownModel):
        client.classify(picture, model="other")
    with pytest.raises(BadRequest, match="top"):
        client.classify(picture, top=0)
    with Client(url_of(stack)) as other, pytest.raises(Unauthorized):
        other.classify(picture)
    with Client(url_of(stack), api_key="wrong") as other, pytest.raises(Forbidden):
        other.classify(picture)


def test_a_key_over_its_quota_waits_as_it_is_told(stack: Stack) -> None:
    picture = samples(1)[0]
    with Client(url_of(stack), api_key=SLOW_KEY) as slow:
        began = time.monotonic()
        labels = [slow.classify(picture.data).predictions[0].label for _ in range(3)]
        assert labels == 3 * [picture.label]
        assert time.monotonic() - began > 1.0, "two pictures a second, the first at once"
    with Client(url_of(stack), api_key=STOPPED_KEY) as stopped:
        assert stopped.classify(picture.data).predictions[0].label == picture.label
        for _ in range(2):  # By ENQUEUE, and by what it has told.
            with pytest.raises(RateLimited, match="the key stopped may send") as raised:
                stopped.classify(picture.data)
            assert 900 < (raised.value.retry_after_s or 0) <= 1000
    assert not [line for line in stack.web.lines() if "-key-of-this-test" in line]
    names = [line.get("key") for line in stack.web.lines("request") if line.get("status") == 429]
    assert {"slow", "stopped"} == {*names}
    text = stack.http.get("/metrics").text
    assert promtool("check", "metrics", text=text) == ""
    assert 'imageserve_key_pictures_total{key="stopped",outcome="ok"} 1.0' in text
    assert 'imageserve_key_pictures_total{key="stopped",outcome="rate_limited"} 2.0' in text
    assert "-key-of-this-test" not in text


def test_many_pictures_get_their_own_labels(client: Client) -> None:
    pictures = [picture for picture in samples(60) for _ in range(3)]
    outcomes = client.classify_many([picture.data for picture in pictures], concurrency=32)
    labels = [outcome.result.predictions[0].label for outcome in outcomes]
    assert labels == [picture.label for picture in pictures]


def test_many_pictures_by_asyncio_as_they_come(stack: Stack) -> None:
    pictures = samples(100)

    async def labels() -> dict[int, str]:
        async with AsyncClient(url_of(stack), api_key=KEY) as client:
            asked = client.classify_many((each.data for each in pictures), in_order=False)
            return {each.index: each.result.predictions[0].label async for each in asked}

    assert asyncio.run(labels()) == {index: each.label for index, each in enumerate(pictures)}


def examples() -> list[tuple[str, str]]:
    found = re.findall(r"^```(python|sh)\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)
    return [(kind, text) for kind, text in found if not text.startswith("pip install")]


def test_the_examples_of_the_document_work(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("star.jpg", "ring.png", "photos/one.jpg", "photos/two.jpg"):
        photo(80, 60).save(tmp_path / name)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {"IMAGESERVE_URL": url_of(stack), "IMAGESERVE_API_KEY": KEY, "PATH": programs}
    said = []
    for kind, text in examples():
        code = text.replace("http://localhost:8000", url_of(stack))
        program = [sys.executable, "-W", "error", "-c"] if kind == "python" else ["/bin/sh", "-ec"]
        done = subprocess.run(
            [*program, code],
            cwd=tmp_path,
            env={**clean_environment(), **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), text
        said.append(done.stdout)
    assert len(said) == 6
    assert "(1000,) float32" in said[3]
    assert "not_an_image 400" in said[4]
    assert (tmp_path / "labels.csv").read_text().count("photos/one.jpg") == 5
    assert '{"file": "-", "success": true' in said[5]
