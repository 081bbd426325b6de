"""The format of a result, its histograms, counting, merging, and the table."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loadtest.tests.results import SECONDS, a_result, histogram

from imageserve_loadtest import tally as tally_module
from imageserve_loadtest.histogram import COARSE, LONGEST_S, Histogram
from imageserve_loadtest.merge import MergeError, merged, results_in
from imageserve_loadtest.result import (
    GIVEN,
    MODEL,
    WEB,
    Counts,
    Outcome,
    PhaseLoad,
    Refusals,
    Result,
    SearchStep,
    Timeline,
    Verdict,
)
from imageserve_loadtest.result_json import ResultError
from imageserve_loadtest.tally import Record, Tally, Times, interval_for
from imageserve_loadtest.terminal import table

durations = st.lists(st.floats(0, 700), max_size=50)


def full_result() -> Result:
    """A result in which no field is empty."""
    counts = Counts(
        planned=100,
        sent=100,
        good=90,
        wrong=1,
        refused=5,
        failed=2,
        error=2,
        pictures=100,
        broken=3,
        refusals={"busy": Refusals(4, 1)},
        failures={"504 timed_out": 2},
        errors={"reset": 2},
        statuses={"200": 91, "503": 5, "504": 2},
    )
    return a_result(
        counts=counts,
        goodput_within_ms=500.0,
        search=(SearchStep(10.0, True, 9.5, 20.0, None, ("no",)),),
        notes=("a note",),
        verdict=Verdict(holds=False, reasons=("a reason",)),
        interrupted=True,
    )


# -- histograms ---------------------------------------------------------------------------------


@settings(max_examples=30)
@given(durations)
def test_a_histogram_is_read_back_as_it_was_written(seconds: list[float]) -> None:
    written = histogram(*seconds)

    read = Histogram.decode(written.encode())

    assert read == written
    assert hash(read) == hash(written)
    assert read.count == len(seconds)
    assert list(read.buckets()) == list(written.buckets())


@settings(max_examples=30)
@given(durations, durations, st.sampled_from([COARSE, 3]))
def test_two_histograms_add_up_to_that_of_all_values(
    some: list[float], others: list[float], digits: int
) -> None:
    together = histogram(*some, digits=digits)
    together.add(histogram(*others, digits=digits))

    assert together == histogram(*some, *others, digits=digits)


@settings(max_examples=30)
@given(st.lists(st.floats(0.001, LONGEST_S), min_size=1, max_size=200), st.floats(1, 100))
def test_a_percentile_is_right_to_a_thousandth(seconds: list[float], percentile: float) -> None:
    ranked = sorted(seconds)

    found_ms = histogram(*seconds).percentile_ms(percentile)

    # The smallest value that this percentage did not exceed.
    enough = (s for i, s in enumerate(ranked, 1) if i >= percentile * len(ranked) / 100 - 1e-6)
    assert found_ms == pytest.approx(next(enough) * 1000, rel=0.001, abs=0.002)


@pytest.mark.parametrize(
    ("count", "percentile", "rank"),
    [(1, 99, 1), (100, 99, 99), (160, 99, 159), (1000, 99.9, 999), (1001, 99.9, 1000)],
)
def test_a_percentile_is_the_nearest_rank(count: int, percentile: float, rank: int) -> None:
    ranks_s = histogram(*(i / 1000 for i in range(1, count + 1)))

    assert ranks_s.percentile_ms(percentile) == pytest.approx(rank, rel=0.001)


def test_an_empty_histogram_has_no_figures() -> None:
    empty = Histogram()

    assert (empty.count, empty.mean_ms, empty.max_ms, empty.percentile_ms(99)) == (
        0,
        None,
        None,
        None,
    )


@pytest.mark.parametrize("text", ["", "HISTFAAA", "AAAA" * 20, "ä", "HISTFAAAAIR4nO3IvQ3CMBCGYf"])
def test_text_that_is_not_a_histogram_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.decode(text)


# -- the format ---------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [a_result(), full_result()], ids=["plain", "full"])
def test_a_result_is_read_back_as_it_was_written(result: Result) -> None:
    line = result.to_json()

    assert "\n" not in line
    assert Result.from_json(line) == result


def test_the_json_has_the_figures_that_scripts_want() -> None:
    raw = json.loads(full_result().to_json())

    assert raw["kind"] == "imageserve-loadtest"
    assert raw["version"] == 1
    assert raw["latency"]["good"]["p50_ms"] == pytest.approx(20, rel=0.001)
    assert raw["goodput_per_s"] == pytest.approx(10.0)
    assert (raw["answered"], raw["unaccounted"]) == (98, 0)


def test_unknown_keys_are_ignored_and_missing_ones_have_defaults() -> None:
    raw = json.loads(a_result().to_json())
    raw["colour"] = "red"
    raw["counts"]["new"] = 1
    del raw["notes"]

    assert Result.from_json(json.dumps(raw)) == a_result()


def changed(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(changed("kind", to="x"), "not the result", id="something else"),
        pytest.param(changed("version", to=2), "version 2; this program reads 1", id="newer"),
        pytest.param(changed("counts", to=[]), "result.counts: must be an object", id="a list"),
        pytest.param(changed("counts", "sent", to="9"), "counts.sent: must be int", id="a text"),
        pytest.param(changed("counts", "sent", to=True), "counts.sent: must be int", id="a flag"),
        pytest.param(changed("seconds", to=float("nan")), "seconds: must be a finite", id="nan"),
        pytest.param(changed("seconds", to="x"), "seconds: must be number", id="no number"),
        pytest.param(changed("notes", to="x"), "notes: must be list", id="no list"),
        pytest.param(changed("lateness", "hdr", to="x"), "lateness.hdr: not a his", id="no hdr"),
        pytest.param(changed("lateness", to=3), "lateness: must be dict", id="no histogram"),
        pytest.param(lambda raw: raw.pop("load"), "lacks 'load'", id="a key is missing"),
    ],
)
def test_a_result_that_cannot_be_read_is_refused_with_the_key(
    spoil: Callable[[dict[str, Any]], None], said: str
) -> None:
    raw = json.loads(a_result().to_json())
    spoil(raw)

    with pytest.raises(ResultError, match=said):
        Result.from_json(json.dumps(raw))


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ResultError, match="not JSON"):
        Result.from_json("{")


# -- counting -----------------------------------------------------------------------------------


def a_record(outcome: Outcome, done_s: float, **values: Any) -> Record:
    return Record(Times(done_s - 0.5, done_s - 0.4, done_s), outcome, "a.png", "id-1", **values)


def test_every_end_is_counted_once_under_its_kind() -> None:
    tally = Tally(10.0)
    for record in (
        a_record(Outcome.GOOD, 1.0, status=200, stages_ms={"model": 5.0, "total": 100.0}),
        a_record(Outcome.GOOD, 1.1, status=400, broken=True),
        a_record(Outcome.WRONG, 2.5, status=200, detail="a.png was called 'dog'"),
        a_record(Outcome.WRONG, 2.5, status=200, detail="a later one"),
        a_record(Outcome.REFUSED, 2.6, status=503, code="busy", retry_after_s=1.0),
        a_record(Outcome.REFUSED, 2.6, status=503, code="busy"),
        a_record(Outcome.FAILED, 2.7, status=504, code="timed_out"),
        a_record(Outcome.ERROR, 2.8, error="reset"),
    ):
        tally.begin(record.times.intended_s, record.times.sent_s, 1)
        tally.end(record)

    counts = tally.counts()
    assert (counts.sent, counts.good, counts.broken, counts.unaccounted) == (8, 2, 1, 0)
    assert counts.refusals == {"busy": Refusals(1, 1)}
    assert counts.failures == {"504 timed_out": 1}
    assert counts.errors == {"reset": 1}
    assert counts.statuses == {"200": 3, "400": 1, "503": 2, "504": 1}
    assert (tally.latency.good.count, tally.latency.broken.count) == (1, 1)
    assert set(tally.examples) == {"wrong", "failed", "error"}
    assert tally.examples["wrong"] == "id-1: a.png was called 'dog'"
    assert tally.latency.good.percentile_ms(50) == pytest.approx(500, rel=0.001)
    assert tally.latency.from_send.percentile_ms(50) == pytest.approx(400, rel=0.001)
    assert tally.stages["outside"].percentile_ms(50) == pytest.approx(300, rel=0.001)
    assert tally.lateness.percentile_ms(50) == pytest.approx(100, rel=0.001)


def test_the_second_answer_of_a_kind_makes_no_new_histogram(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Making a histogram takes longer than everything else about a request."""
    tally = Tally(10.0)
    record = a_record(Outcome.GOOD, 1.0, status=200, stages_ms={"model": 5.0, "total": 100.0})
    tally.begin(record.times.intended_s, record.times.sent_s, 1)
    tally.end(record)
    monkeypatch.setattr(tally_module, "Histogram", None)

    tally.begin(record.times.intended_s, record.times.sent_s, 1)
    tally.end(record)

    assert {name: each.count for name, each in tally.stages.items()} == {
        "model": 2,
        "total": 2,
        "outside": 2,
    }


def test_the_timeline_has_every_interval_and_every_request_where_it_belongs() -> None:
    tally = Tally(10.0)
    for done_s in (0.9, 1.2, 4.1):
        record = a_record(Outcome.GOOD, done_s, status=200)
        tally.begin(record.times.intended_s, record.times.sent_s, 1)
        tally.end(record)

    points = tally.timeline().points

    assert [point.at_s for point in points] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [point.planned for point in points] == [2, 0, 0, 1, 0]
    assert [point.sent for point in points] == [2, 0, 0, 1, 0]
    assert [point.answered for point in points] == [1, 1, 0, 0, 1]
    assert [point.latency.count for point in points] == [1, 1, 0, 0, 1]


def test_a_request_that_has_begun_and_not_ended_is_open() -> None:
    tally = Tally(10.0)
    tally.begin(0.0, 0.0, 1)

    assert tally.live_counts().in_flight == 1
    assert tally.counts().unaccounted == 1


@pytest.mark.parametrize(
    ("seconds", "interval_s"), [(10, 1), (600, 1), (601, 2), (7200, 30), (10**7, 1800)]
)
def test_a_long_test_has_longer_intervals(seconds: float, interval_s: float) -> None:
    assert interval_for(seconds) == interval_s


def test_a_record_is_one_line_of_json() -> None:
    record = a_record(Outcome.REFUSED, 2.0, status=503, code="busy", retry_after_s=1.0)

    assert json.loads(record.to_json()) == {
        "intended_s": 1.5,
        "sent_s": 1.6,
        "done_s": 2.0,
        "status": 503,
        "code": "busy",
        "picture": "a.png",
        "outcome": "refused",
        "retry_after": 1.0,
        "error": "",
        "request_id": "id-1",
        "detail": "",
    }


# -- merging ------------------------------------------------------------------------------------


def pod(shard: int, of: int = 2, **changes: Any) -> Result:
    result = a_result(**changes)
    return replace(result, load=replace(result.load, shard=shard, shards=of))


def test_the_results_of_pods_are_found_among_other_lines() -> None:
    lines = [
        "waiting for the target",
        pod(0).to_json() + "\n",
        f"[pod/loadtest-1/loadtest] {pod(1).to_json()}",
        '{"kind": "another"}',
        "",
    ]

    assert results_in(lines) == [pod(0), pod(1)]


def test_a_result_that_is_cut_off_is_an_error() -> None:
    with pytest.raises(ResultError, match="not JSON"):
        results_in([a_result().to_json()[:500]])


def test_the_results_of_all_pods_add_up() -> None:
    broken = pod(0, counts=full_result().counts, examples={"wrong": "id-1: not a dog"})

    whole = merged([pod(1, sending_seconds=9.5), broken])

    assert whole.pods == 2
    assert whole.load == replace(a_result().load, shards=2)
    assert (whole.counts.sent, whole.counts.good, whole.counts.wrong) == (200, 190, 1)
    assert whole.counts.statuses == {"200": 191, "503": 5, "504": 2}
    assert whole.counts.refusals == {"busy": Refusals(4, 1)}
    assert whole.latency.good.count == 200
    assert whole.stages["model"].count == 200
    assert whole.timeline.points[0].latency.count == 200
    assert whole.tool.cpu_s == 1.0
    assert not whole.verdict.holds
    assert whole.sending_seconds == 9.5
    assert whole.verdict.reasons[0] == (
        "1 request got a wrong answer; the first was id-1: not a dog"
    )


def test_the_merged_verdict_is_judged_again() -> None:
    terms = ("p99=101ms", "goodput=19/s", "errors=0%", "refused=0%")

    whole = merged([pod(0, objective=terms), pod(1, objective=terms)])

    assert whole.verdict == Verdict(holds=True)


def test_the_timelines_of_pods_are_aligned_by_time_of_day() -> None:
    later = pod(1, started_at="2026-03-01T12:00:03.000+00:00")

    whole = merged([pod(0), later])

    assert whole.seconds == SECONDS + 3
    assert [point.sent for point in whole.timeline.points] == [100, 0, 0, 100]
    assert [sample.at_s for sample in whole.queue] == [0.5, 3.5]
    assert "3.0 s apart" in whole.notes[0]


SECONDS_LATER = {s: f"2026-03-01T12:00:{s:06.3f}+00:00" for s in (0.0, 0.9, 5.0, 7.0, 12.0)}


@pytest.mark.parametrize(
    ("later_s", "holds"),
    [
        pytest.param(0.0, True, id="together"),
        pytest.param(0.9, True, id="no more than clocks differ"),
        pytest.param(5.0, True, id="together for most of it"),
        pytest.param(7.0, False, id="together for a moment"),
        pytest.param(12.0, False, id="one after the other"),
    ],
)
def test_pods_that_did_not_send_at_the_same_time_fail_the_verdict(
    later_s: float, holds: bool
) -> None:
    whole = merged([pod(0), pod(1, started_at=SECONDS_LATER[later_s])])

    assert whole.verdict.holds == holds
    if not holds:
        (reason,) = whole.verdict.reasons
        assert "did not send at the same time" in reason
        assert f"began {later_s:.1f} s after the first" in reason
        assert "Pending" in reason


def test_the_rate_of_pods_one_after_the_other_is_not_the_sum_of_their_rates() -> None:
    whole = merged([pod(0), pod(1, started_at=SECONDS_LATER[12.0])])

    # Each has sent ten a second, and no second had more.
    assert whole.offered_per_s < 10
    assert whole.goodput_per_s < 10


def test_a_short_spike_that_was_never_whole_fails_the_verdict() -> None:
    phases = (
        PhaseLoad("quiet", 20.0, rate_per_s=3.0),
        PhaseLoad("spike", 3.0, rate_per_s=40.0),
        PhaseLoad("after", 40.0, rate_per_s=3.0),
    )
    load = replace(a_result().load, phases=phases, shards=2)
    parts = [
        a_result(load=replace(load, shard=shard), seconds=63.0, started_at=SECONDS_LATER[later_s])
        for shard, later_s in ((0, 0.0), (1, 5.0))
    ]

    assert "of the 3 s of the heaviest phase" in merged(parts).verdict.reasons[0]


@pytest.mark.parametrize("told", ["", "yesterday"])
def test_a_pod_that_does_not_say_when_it_began_fails_the_verdict(told: str) -> None:
    whole = merged([pod(0), pod(1, started_at=told)])

    (reason,) = whole.verdict.reasons
    assert reason.startswith(f"pod 1 does not say when it began (started_at is {told!r})")
    assert whole.seconds == SECONDS


def test_pods_that_read_the_capacity_at_different_times_are_one_test() -> None:
    def part(shard: int, capacity_per_s: float, whose: str) -> Result:
        phase = PhaseLoad("all", SECONDS, rate_per_s=capacity_per_s / 2)
        load = replace(
            a_result().load,
            phases=(phase,),
            shard=shard,
            shards=2,
            capacity_per_s=capacity_per_s,
            capacity_of=whose,
        )
        return a_result(load=load)

    whole = merged([part(0, 110.0, MODEL), part(1, 90.0, WEB)])

    assert whole.load.phases[0].rate_per_s == 50.0
    assert (whole.load.capacity_per_s, whole.load.capacity_of) == (100.0, WEB)
    assert "rates are shares of 100.0 pictures/s: the capacity of the web" in table(whole)
    with pytest.raises(MergeError, match="different loads"):
        merged([part(0, 110.0, GIVEN), part(1, 90.0, GIVEN)])


def test_a_pod_whose_result_is_missing_fails_the_verdict() -> None:
    whole = merged([pod(0, 3), pod(2, 3)])

    assert whole.verdict.reasons == ("2 of 3 pods have a result",)


other_target = replace(a_result().target, url="http://elsewhere")


@pytest.mark.parametrize(
    ("results", "said"),
    [
        pytest.param([], "no result was found", id="none"),
        pytest.param([pod(0), pod(0)], "pod 0 of 2 appears 2 times", id="one twice"),
        pytest.param([pod(0), pod(1, target=other_target)], "different targets", id="targets"),
        pytest.param([pod(0, 2), pod(1, 3)], "different loads", id="numbers of pods"),
        pytest.param([pod(0), pod(1, objective=())], "different objectives", id="objectives"),
    ],
)
def test_results_of_different_tests_are_refused(results: list[Result], said: str) -> None:
    with pytest.raises(MergeError, match=said):
        merged(results)


def test_results_of_different_targets_can_be_added_up_on_demand() -> None:
    assert merged([pod(0), pod(1, target=other_target)], any_target=True).pods == 2


# -- the table ----------------------------------------------------------------------------------


def test_the_table_has_everything_important() -> None:
    text = table(full_result())

    for expected in (
        "http://localhost:8000  stand-in 64x64",
        "open loop constant; all 10/s for 10 s",
        "good                90  of these the right error for a broken picture: 3",
        "refused              5  busy 5, without Retry-After 1",
        "failed               2  504 timed_out 2",
        "no answer            2  reset 2",
        "10.0/s             9.5      20.0         -  holds",
        "note: a note",
        "verdict: it does NOT hold\n  - a reason",
    ):
        assert expected in text


def test_an_empty_result_has_a_table_too() -> None:
    empty = a_result(counts=Counts(), stages={}, timeline=Timeline(), queue=())

    assert "sent                 0" in table(empty)
