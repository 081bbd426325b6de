import numpy as np
import pytest

from imageserve.models.model import best, best_of_each
from imageserve.predictions import FEW_LABELS, Asked, Prediction

LABELS = ("ant", "bee", "cat", "dog")


def labels_of(scores: list[float], top: int) -> list[str]:
    (answer,) = best(np.array([scores], np.float32), LABELS, top)
    return [prediction.label for prediction in answer]


@pytest.mark.parametrize(
    ("scores", "top", "expected"),
    [
        pytest.param([0.1, 0.6, 0.0, 0.3], 2, ["bee", "dog"], id="best first"),
        pytest.param([0.1, 0.6, 0.0, 0.3], 1, ["bee"], id="top 1"),
        pytest.param([0.1, 0.6, 0.0, 0.3], 4, ["bee", "dog", "ant", "cat"], id="all classes"),
        pytest.param([0.1, 0.6, 0.0, 0.3], 9, ["bee", "dog", "ant", "cat"], id="more than classes"),
        pytest.param([0.1, 0.6, 0.0, 0.3], 0, [], id="none"),
        pytest.param([0.25] * 4, 3, ["ant", "bee", "cat"], id="all tie"),
        pytest.param([0.2, 0.2, 0.4, 0.2], 2, ["cat", "ant"], id="a tie for the last place"),
        pytest.param([0.1, 0.4, 0.1, 0.4], 2, ["bee", "dog"], id="a tie for the first place"),
    ],
)
def test_the_likeliest_labels_come_first_and_ties_keep_the_class_order(
    scores: list[float], top: int, expected: list[str]
) -> None:
    assert labels_of(scores, top) == expected


def test_every_row_gets_its_own_answer_with_plain_floats() -> None:
    scores = np.array([[0.75, 0.25, 0, 0], [0, 0, 0.5, 0.5]], np.float32)

    answers = best(scores, LABELS, top=2)

    assert answers == [
        (Prediction("ant", 0.75), Prediction("bee", 0.25)),
        (Prediction("cat", 0.5), Prediction("dog", 0.5)),
    ]
    assert type(answers[0][0].probability) is float


def test_many_random_rows_agree_with_a_full_stable_sort() -> None:
    # Three distinct values, so that many tie.
    scores = np.random.default_rng(5).integers(0, 3, (64, 1000)).astype(np.float32)
    labels = [str(i) for i in range(1000)]

    answers = best(scores, labels, top=5)

    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert [[int(p.label) for p in answer] for answer in answers] == order.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_and_the_picture_is_named(bad: float) -> None:
    scores = np.full((3, 4), 0.25, np.float32)
    scores[1, 2] = bad

    with pytest.raises(ValueError, match=r"not finite for picture \[1\]"):
        best(scores, LABELS, top=1)


def test_many_labels_are_made_for_those_rows_alone_that_are_asked_for_them() -> None:
    scores = np.random.default_rng(6).integers(0, 9, (4, 300)).astype(np.float32)
    labels = [str(i) for i in range(300)]
    everything = best(scores, labels, 300)

    answers = best_of_each(
        scores,
        labels,
        [Asked(300), Asked(2), Asked(FEW_LABELS + 1), Asked(300, least=7.0)],
    )

    likely = [each for each in everything[3] if each.probability >= 7]
    assert [len(answer) for answer in answers] == [300, 2, FEW_LABELS + 1, len(likely)]
    assert [answers[0], answers[3]] == [everything[0], tuple(likely)]
    assert [answers[i] for i in (1, 2)] == [everything[i][: len(answers[i])] for i in (1, 2)]


def test_one_label_is_left_where_none_is_likely_enough() -> None:
    (answer,) = best_of_each(np.full((1, 3), 0.25, np.float32), LABELS, [Asked(300, least=0.5)])

    assert answer == (Prediction("ant", 0.25),)
