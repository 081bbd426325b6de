"""What the answers of a request become."""

import json

import numpy as np

from imageserve.errors import Busy
from imageserve.predictions import Prediction
from imageserve.web.answers import PIECE, as_json
from imageserve.web.predict import Answer

LENGTH = 2 * PIECE + 5


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
