"""What the answers of a request become."""

import json
import time
from itertools import pairwise

import numpy as np
import pytest

from imageserve.errors import Busy
from imageserve.inference.request import AskedOutput, InferRequest
from imageserve.predictions import PIECE, Prediction
from imageserve.web import infer_door
from imageserve.web.answers import as_json
from imageserve.web.outcomes import Answer

LENGTH = 2 * PIECE + 5

LONGEST_S = 0.05
"""Of processor between two pauses; `make fuzz` has the same bound."""


def test_long_answers_are_whole_and_others_have_their_turn_meanwhile() -> None:
    vector = np.random.default_rng(1).random(LENGTH, np.float32)
    labels = tuple(Prediction(f'"{i}', i / LENGTH) for i in range(LENGTH))
    answers = [Answer(labels, 0, 0, 0, vector=vector.astype("<f4").tobytes())] * 2
    pauses: list[str] = []

    for output, name in (("embedding", "embedding"), ("labels", "predictions")):
        text = as_json([*answers, Busy("no")], output, lambda name=name: pauses.append(name))  # type: ignore[misc]
        first, second, error = json.loads(text)["results"]

        assert first == second
        assert error["error"]["code"] == "busy"
        assert pauses.count(name) == 2 * 3, "every PIECE numbers"
        found = first[name]
        if output == "labels":
            found = [Prediction(**each) for each in found]
            assert found == list(labels)
        else:
            assert np.array_equal(np.array(found, np.float32), vector)


@pytest.mark.parametrize("as_bytes", [frozenset(), frozenset({"probabilities"})])
def test_classes_of_many_pictures_hold_up_nobody(
    as_bytes: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classes, pictures = 20_000, 13
    labels = tuple(Prediction(f"label {i}", i / classes, i) for i in range(classes))
    asked = (AskedOutput("probabilities", classes),)
    request = InferRequest("", (b"",) * pictures, asked)
    times: list[float] = []

    class Turn:
        def give(self) -> None:
            times.append(time.thread_time())

    monkeypatch.setattr(infer_door, "Turn", Turn)

    def longest_s() -> float:
        times[:] = [time.thread_time()]
        reply = infer_door._reply([Answer(labels, 0, 0, 0)] * pictures, request, as_bytes, "m")
        times.append(time.thread_time())
        assert len(reply.body) > pictures * classes * 10
        return max(after - before for before, after in pairwise(times))

    # Of three: what the garbage collector takes of one is not this code's.
    assert any(longest_s() < LONGEST_S for _ in range(3))
