"""The benches: what is kept and measured again, and what their tables and targets say."""

from dataclasses import replace
from pathlib import Path

import pytest
from bench.before import BEFORE, counts_section, steady
from bench.before import section as before_section
from bench.closed_loop import Counts, Form
from bench.commits import THAT, THIS
from bench.doors import section as doors_section
from bench.instructions import ALL, MODEL_ROLE, ROLES
from bench.kept import Circumstances, Kept, Shown, page, sections_as_json, sections_from_json
from bench.load import Run
from bench.machine import described_processor
from bench.open_loop import Outcomes
from bench.overload import (
    FAST,
    SLOW,
    Measured,
    Round,
    StandInTimes,
    all_settings,
    mixed_settings,
    round_from_json,
    target_setting,
)
from bench.overload_rounds import Overload, rivals, settings_of_round
from bench.overload_tables import overload_plot, overload_sections
from bench.peers.comparison import (
    CLIENTS,
    Compared,
    Runs,
    Setting,
    Tried,
    as_json,
    from_json,
    note_windows,
    taking_part,
)
from bench.peers.faults import Faults, Faulty
from bench.peers.reasons import last_line, why
from bench.peers.tables import fault_section, own_section, plot
from bench.plan import Plan
from bench.report import Section, Verdict

HERE = Circumstances("2026-11-26 10:00", "2 cores of Zen", "Zen", "abc1234", 3, 5.0, 1.5, 0.01)


# -- what is kept ---------------------------------------------------------------------------------


def test_a_piece_is_measured_again_unless_the_run_is_resumed(tmp_path: Path) -> None:
    numbers = iter([1.5, 2.5, 3.5])

    first = Kept(tmp_path, is_resumed=True).piece("p1", Plan(), lambda: next(numbers))
    resumed = Kept(tmp_path, is_resumed=True).piece("p1", Plan(), lambda: next(numbers))
    again = Kept(tmp_path, is_resumed=False).piece("p1", Plan(), lambda: next(numbers))
    later = Kept(tmp_path, is_resumed=True).piece("p1", Plan(), lambda: next(numbers))

    assert [each.value for each in (first, resumed, again, later)] == [1.5, 1.5, 2.5, 2.5]
    assert resumed == first
    assert first.circumstances.processor


def test_what_is_interrupted_is_not_kept_and_loses_nothing_that_is(tmp_path: Path) -> None:
    kept = Kept(tmp_path, is_resumed=False)
    kept.piece("p1", Plan(), lambda: "whole")

    def interrupted() -> None:
        raise KeyboardInterrupt

    for name in ("p1", "p2"):
        with pytest.raises(KeyboardInterrupt):
            kept.piece(name, Plan(), interrupted)

    resumed = Kept(tmp_path, is_resumed=True)
    assert resumed.piece("p1", Plan(), interrupted).value == "whole"
    assert not resumed.is_done("p2")


def test_tables_are_kept_as_they_are() -> None:
    section = Section("(a)", ["x", "y"], [["1", "2"]], [Verdict("> 1", "2", is_met=True)], ["n"])

    assert sections_from_json(sections_as_json([section])) == [section]


def test_every_table_says_when_and_on_what_it_was_measured() -> None:
    later = replace(HERE, began="2026-11-26 11:00", processor="Skylake", machine="2 of Skylake")
    one = Shown(Section("(a)", ["x"], [["1"]], [Verdict("> 1", "0", is_met=False)]), [HERE])
    two = Shown(Section("(b)", ["x"], [["2"]], []), [HERE, later])
    text = page([one, two], "Note.")

    assert text.startswith("Machine: 2 cores of Zen. Machine: 2 of Skylake.\n\nNote.")
    assert "### Targets" in text
    assert "**missed**" in text
    assert "Measured on Zen, 2026-11-26 10:00 UTC, 1.5 minutes; commit abc1234; others" in text
    assert "Measured on Zen; Skylake, 2026-11-26 10:00 to 2026-11-26 11:00 UTC, 3.0" in text


def test_the_processor_is_told_with_its_family_and_vector_units() -> None:
    told = (
        "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC 7B13\n"
        "flags\t\t: fpu sse2 avx fma avx2 sha_ni\n\nprocessor\t: 1\n"
    )

    assert described_processor(told) == "AMD EPYC 7B13 (family 25, model 1, AVX AVX2 FMA)"
    assert described_processor("processor\t: 0\n") == ""


# -- overload -------------------------------------------------------------------------------------


def _round(in_time: float, model: StandInTimes = SLOW, capacity: float = 50.0) -> Round:
    """Every row: this share of all requests is answered in time."""
    made = Round(4.0, capacity)
    for setting in all_settings(model):
        offered = round(4 * capacity * setting.share)
        parts = [round(offered * kind.share) for kind in setting.kinds]
        made.runs[setting] = [Outcomes(n, in_time=round(n * in_time)) for n in parts]
    return made


def _measured(in_time: float, model: StandInTimes = SLOW) -> Measured:
    return Measured([_round(in_time, model)])


def test_goodput_is_answers_in_time_per_second_beside_the_capacity_of_that_round() -> None:
    slower = _round(0.5, capacity=25.0)
    only_others = Round(4.0, 1.0, {mixed_settings(SLOW)[0]: [Outcomes(4, 4), Outcomes(4, 4)]})
    measured = Measured([_round(0.5), only_others, slower])

    assert measured.goodputs(target_setting(SLOW)) == pytest.approx([37.5, 18.75])
    assert measured.shares_of_capacity(target_setting(SLOW)) == pytest.approx([0.75, 0.75], 0.02)


def test_a_round_is_kept_as_it_is() -> None:
    for model in (SLOW, FAST):
        assert round_from_json(_round(0.7, model).as_json()) == _round(0.7, model)


def test_the_targets_of_overload_stand_on_the_slow_stand_in() -> None:
    shares = {"imageserve": 0.66, "good": 0.5, "bad": 0.1}
    overload = Overload(
        {
            model: {name: _measured(share, model) for name, share in shares.items()}
            for model in (SLOW, FAST)
        }
    )
    plain, mixed, *others = (shown.section for shown in overload_sections("p4", overload))

    assert [(each.measured, each.is_met) for each in plain.verdicts] == [
        ("99.0 %", True),
        ("1.32x of good (75.0 %)", True),
    ]
    assert [each.is_met for each in mixed.verdicts] == [False, False]
    assert not any(section.verdicts for section in others)
    assert "with the fast one: imageserve 1.00, good 1.00, bad 1.00." in str(plain)


def test_the_best_peer_is_one_that_was_measured_as_often_as_this_system() -> None:
    ours, good = Measured([_round(0.66)] * 2), Measured([_round(0.5)] * 2)
    once = Measured([_round(0.9)])
    overload = Overload({SLOW: {"imageserve": ours, "once": once, "good": good}})

    (_, beside), _ = (shown.section.verdicts for shown in overload_sections("p4", overload))
    assert "of good" in beside.measured


def test_every_row_of_the_tables_has_a_cell_for_each_column() -> None:
    partly = Measured([Round(4.0, 50.0, {target_setting(SLOW): [Outcomes(300, 10)]})])
    overload = Overload({SLOW: {"imageserve": _measured(0.7), "partly": partly}})
    for shown in overload_sections("g", overload):
        assert {len(row) for row in shown.section.rows} == {len(shown.section.header)}
        assert len(shown.section.rows) > 4
    assert "partly" in overload_plot(overload.measured[SLOW])


def test_systems_without_numbers_are_named() -> None:
    measured = {SLOW: {"imageserve": _measured(1.0)}}
    overload = Overload(measured, failed={"X": "it ended"}, left_out=["Y"])
    text = str(overload_sections("p4", overload)[0])

    assert "No numbers of X: it ended." in text
    assert "Only with the slow stand-in: Y." in text


def test_later_rounds_measure_only_what_targets_stand_on() -> None:
    first, ours, peers = (
        settings_of_round(SLOW, name, n, is_quick=False)
        for name, n in (("mosec", 1), ("imageserve", 2), ("mosec", 2))
    )

    assert {setting.share for setting in first} == {0.7, 1.0, 1.1, 1.5, 2.0}
    assert set(ours) == {target_setting(SLOW), *mixed_settings(SLOW)}
    assert peers == [target_setting(SLOW)]


def test_the_best_peers_take_part_in_later_rounds() -> None:
    shares = {"imageserve": 0.1, "worst": 0.2, "best": 0.9, "second": 0.5}

    assert rivals({name: _measured(share) for name, share in shares.items()}) == ["best", "second"]


@pytest.mark.parametrize(
    ("now", "is_met"),
    [
        pytest.param([60, 61, 62], True, id="more"),
        pytest.param([50, 51, 52], True, id="the same"),
        pytest.param([49, 50, 51], True, id="less by less than 3 %"),
        pytest.param([40, 41, 42], False, id="less"),
    ],
)
def test_goodput_must_not_fall_below_that_of_the_earlier_commit(
    now: list[int], is_met: bool
) -> None:
    def runs(in_time: list[int]) -> list[list[Outcomes]]:
        return [[Outcomes(30, n // 2), Outcomes(70, n - n // 2)] for n in in_time]

    made = before_section({(THIS, steady()): runs(now), (THAT, steady()): runs([50, 51, 52])}, 5.0)

    assert [verdict.is_met for verdict in made.verdicts] == [is_met]
    assert [row[1] for row in made.rows] == ["30.0 %: 0.48 s", "70.0 %: 1 s", "all"]
    assert made.header[3] == BEFORE


@pytest.mark.parametrize(("now", "is_met"), [(60.0, True), (61.0, False)])
def test_instructions_are_compared_with_those_of_the_earlier_commit(
    now: float, is_met: bool
) -> None:
    def counts(each: float) -> list[dict[str, float]]:
        return [dict.fromkeys((*ROLES, ALL, MODEL_ROLE), each)] * 2

    made = counts_section({THIS: counts(now), THAT: counts(100.0)})

    assert [verdict.is_met for verdict in made.verdicts] == [is_met]
    assert {len(row) for row in made.rows} == {len(made.header)}


# -- peers ----------------------------------------------------------------------------------------


def _run(rate: float, p50_ms: float = 20.0, tail: float = 1.0) -> Run:
    latencies = [p50_ms] * 98 + [p50_ms * tail] * 2
    return Run(Counts(1.0, round(rate), latencies_ms=latencies, all_answered_s=0.5), {"all": 1.0})


def _runs(**rates: list[float]) -> Runs:
    return {
        Setting(name, n): [_run(rate) for rate in each]
        for name, each in rates.items()
        for n in CLIENTS
    }


def test_a_peer_that_does_not_run_here_stands_in_the_table_with_its_reason() -> None:
    tried = Tried(reasons={"Triton": "no such library"})
    section = own_section(Compared(_runs(imageserve=[100.0], mosec=[90.0])), tried).section

    assert ["", "Triton", "does not run here: no such library", *[""] * 5] in section.rows
    assert {len(row) for row in section.rows} == {len(section.header)}


def test_the_targets_of_peers_are_compared_within_a_round() -> None:
    runs = {
        **_runs(imageserve=[125.0, 60.0, 120.0], mosec=[100.0, 50.0, 100.0], slow=[40.0]),
        Setting("imageserve", 1): [_run(50, p50_ms=ms) for ms in (20.0, 21.0, 19.0)],
        Setting("mosec", 1): [_run(50, p50_ms=ms) for ms in (20.0, 20.0, 20.0)],
        Setting("slow", 1): [_run(50, p50_ms=19.5)] * 3,
        Setting("imageserve", 48): [_run(125 * x, tail=2.5) for x in (1.0, 0.5, 1.0)],
    }
    section = own_section(Compared(runs), Tried()).section
    speed, latency, tail, failures = section.verdicts

    assert (speed.measured, speed.is_met) == ("1.25x (1.24x-1.25x) of mosec", True)
    assert latency.measured.endswith("of slow; the lowest in 1 of 3 rounds")
    assert latency.is_met
    assert tail.measured == "2.50x (mosec 1.00x, slow 1.00x)"
    assert not tail.is_met
    assert failures.is_met
    assert "slow" in plot(runs)


def test_later_rounds_are_for_those_that_may_be_best() -> None:
    settings = [Setting(name, n) for name in ("imageserve", "fast", "slow") for n in (48, 1, 16)]
    first = {each: [_run(100 if each.system == "fast" else 30)] for each in settings}

    assert taking_part(settings, {})[:3] == [each for each in settings if each.clients == 1]
    assert {each.system for each in taking_part(settings, first)} == {"imageserve", "fast"}


def test_runs_are_kept_as_they_are() -> None:
    runs = _runs(imageserve=[100.0, 90.0])

    assert from_json(as_json(runs)) == runs


def test_the_best_window_is_that_of_most_images_and_one_client_has_the_shortest() -> None:
    found = Tried()
    note_windows(found, "mosec", {"rates": {"16": {"2": 9.0, "10": 8.0}, "48": {"10": 20.0}}})
    note_windows(found, "ray", {"rates": {"48": {"2": 9.0, "10": 8.0}}})
    note_windows(found, "kserve", {"failed": "no such library"})

    assert [found.windows[Setting("mosec", n)] for n in CLIENTS] == [2, 2, 10]
    assert found.slow == ["Ray Serve"]
    assert found.reasons == {"KServe": "no such library"}


def test_the_table_of_faults_says_what_came_instead_of_labels() -> None:
    killed = replace(_run(10).counts, errors=9, failed={"503": 8, "no answer": 1})
    faulty = Faulty("imageserve", broken=_run(10), killed=replace(_run(10), counts=killed))
    section = fault_section(Faults([faulty], {"mosec": "it ended"})).section

    assert not section.verdicts[0].is_met
    assert "What came instead of labels: imageserve: 8 x 503, 1 x no answer." in section.notes
    assert "No numbers of mosec: it ended." in section.notes


def test_a_reason_fits_in_a_cell() -> None:
    assert last_line("Traceback\n  ...\nOSError: a | b\n") == "OSError: a / b"
    assert last_line("") == "no reason was given"


def test_a_signal_that_ends_the_benchmark_is_no_failure_of_a_peer() -> None:
    assert why(SystemExit("bench: not within 120 s: KServe answers")).endswith("KServe answers")
    with pytest.raises(SystemExit):
        why(SystemExit(143))


# -- doors ----------------------------------------------------------------------------------------


def test_doors_are_compared_round_by_round() -> None:
    def runs(*images: int) -> list[Run]:
        return [Run(Counts(1.0, n, latencies_ms=[50.0]), {"web": 1.0}) for n in images]

    shown = doors_section(
        {
            Form.PLAIN: runs(100, 200, 300),
            Form.V2_LABELS: runs(95, 190, 285),
            Form.V2_SCORES: runs(90, 188, 300),
        }
    )

    assert [each.is_met for each in shown.verdicts] == [True, False]
    assert "94.0 % (90.0 %-100.0 %)" in shown.verdicts[1].measured
