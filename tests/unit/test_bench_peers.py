"""The peers' servers get the same model and the same pixels as imageserve."""

from io import BytesIO

import numpy as np
import pytest
from bench.peers.environments import PEERS, version
from bench.peers.servers.shared import TOP, Model, decoded
from bench.picture import photo_jpeg
from PIL import Image

from imageserve.decoding import DecodingPolicy, decode
from imageserve.models.stand_in import StandIn
from imageserve.preparation import Preparation

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def test_the_peers_stand_in_gives_the_same_answers_in_the_same_time() -> None:
    theirs_slept: list[float] = []
    ours_slept: list[float] = []

    theirs = Model(sleep=theirs_slept.append).answers(IMAGES)
    ours = StandIn(sleep=ours_slept.append).predict(IMAGES, TOP)

    assert theirs_slept == pytest.approx(ours_slept)
    assert [[(p["label"], p["probability"]) for p in each["predictions"]] for each in theirs] == [
        [(p.label, p.probability) for p in each] for each in ours
    ]


def test_identical_decoding_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_DECODE", "identical")
    picture = photo_jpeg()

    assert decoded(picture).tobytes() == decode(picture, Preparation((224, 224)), DecodingPolicy())


def test_their_own_decoding_is_what_pillow_does_by_default() -> None:
    picture = photo_jpeg()
    with Image.open(BytesIO(picture)) as image:
        expected = np.asarray(image.convert("RGB").resize((224, 224)))

    assert np.array_equal(decoded(picture), expected)


@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_is_pinned(peer: str) -> None:
    assert version(peer)[0].isdigit()
