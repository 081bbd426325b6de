"""The accounts of a fault test: nothing may be lost, doubled or wrong without being seen."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from bench.chaos.__main__ import main
from bench.chaos.accounts import (
    Evidence,
    account,
    goodput_per_s,
    percentile_ms,
    unsettled_by_counters,
)
from bench.chaos.arena import QUICK
from bench.chaos.load import Record
from bench.chaos.run import Report, demands
from bench.chaos.surroundings import ALL, BY_NAME
from bench.chaos.tables import guarantees, numbers, outages
from bench.chaos.witness import EVENTS, Ledger, Witness
from tests.redis_server import RedisServer, eventually, running

from imageserve.queue.keys import Keys
from imageserve_loadtest.result import Outcome

# -- what the witness records ---------------------------------------------------------------------

KEYS = Keys("image_queue")


@pytest.fixture
def server(redis_program: str, tmp_path: Path) -> Iterator[RedisServer]:
    with running(RedisServer(redis_program, tmp_path / "redis", *EVENTS)) as server:
        yield server


@pytest.fixture
def witness(server: RedisServer) -> Witness:
    witness = Witness(server)
    witness.start()
    return witness


def accept(server: RedisServer, *jobs: str) -> None:
    for job in jobs:
        server.client().set(KEYS.nonce(job), "nonce", nx=True, px=60_000)
        server.client().set(KEYS.pixels(job), b"pixels", px=60_000)


def settle(server: RedisServer, *jobs: str) -> None:
    for job in jobs:
        server.client().set(KEYS.result(job), "{}", nx=True, px=60_000)
        server.client().publish(KEYS.reply("a-web-process"), f'{{"id":"{job}"}}')


def test_the_witness_sees_what_is_accepted_settled_and_told(
    server: RedisServer, witness: Witness
) -> None:
    accept(server, "a", "b")
    settle(server, "a")
    ledger = witness.stop()
    assert (ledger.accepted, ledger.settled, ledger.lost) == ({"a", "b"}, {"a"}, {"b"})
    assert ledger.messages.total() == ledger.stores.total() == 1
    assert not ledger.doubled


def test_the_witness_sees_a_result_that_is_told_twice(
    server: RedisServer, witness: Witness
) -> None:
    accept(server, "a", "b")
    settle(server, "a", "b", "b")
    assert witness.stop().doubled == {"b"}


def test_the_witness_sees_a_result_that_is_stored_twice(
    server: RedisServer, witness: Witness
) -> None:
    accept(server, "a")
    for text in ("{}", "{}"):
        server.client().set(KEYS.result("a"), text)
    assert witness.stop().doubled == {"a"}


def test_what_happened_while_the_witness_was_away_is_read_when_redis_is_back(
    server: RedisServer, witness: Witness
) -> None:
    accept(server, "a", "b", "forgotten")
    settle(server, "a")
    eventually(lambda: "a" in witness.ledger.settled, "it is seen")
    server.client().delete(KEYS.nonce("forgotten"))
    server.kill()
    server.start()
    eventually(lambda: witness.ledger.life == 2, "the witness is back")
    settle(server, "b")
    ledger = witness.stop()
    assert ledger.accepted == {"a", "b", "forgotten"}
    assert ledger.settled == {"a", "b"}
    assert ledger.forgotten == {"forgotten"}
    assert not ledger.lost


def test_a_witness_that_lost_its_connection_says_so(server: RedisServer, witness: Witness) -> None:
    server.client().client_kill_filter(_type="pubsub")
    eventually(lambda: not witness._thread.is_alive(), "it gives up")
    with pytest.raises(SystemExit, match="without a restart"):
        witness.stop()


def test_a_job_that_expires_as_the_clock_of_redis_jumps_is_not_lost(
    server: RedisServer, witness: Witness
) -> None:
    accept(server, "a", "b", "settled")
    settle(server, "settled")
    eventually(lambda: "settled" in witness.ledger.settled, "it is seen")
    server.client().delete(KEYS.nonce("a"), KEYS.nonce("settled"))
    witness.note_jump()
    accept(server, "later")
    eventually(lambda: "later" in witness.ledger.accepted, "it is seen")
    seen = witness.stop()
    assert (seen.expired, seen.lost) == ({"a"}, {"b", "later"})
    counted = account(evidence(seen=seen, counters={"accepted": 4, "completed": 1}))
    assert (counted.lost, counted.forgotten) == (2, 1)
    # A worker may have met "a" before its client was told, and counted it.
    met = account(evidence(seen=seen, counters={"accepted": 4, "completed": 1, "expired": 1}))
    assert (met.lost, met.duplicated) == (2, 0)
    twice = account(evidence(seen=seen, counters={"accepted": 4, "completed": 5}))
    assert twice.duplicated == 1


def test_a_job_that_is_run_in_two_lives_of_redis_is_not_doubled() -> None:
    ledger = Ledger()
    for _ in range(2):
        ledger.begin_life(["a"], [])
        ledger.store("a")
        ledger.publish("a")
    assert ledger.run_again == {"a"}
    assert not ledger.doubled


# -- the account ----------------------------------------------------------------------------------


def record(
    outcome: str, status: int = 200, code: str = "", *, retry: bool = False, error: str = ""
) -> Record:
    return Record(10.0, 10.001, 10.5, Outcome(outcome), status, code, retry, error)


def ledger(accepted: int, settled: int) -> Ledger:
    made = Ledger()
    made.begin_life(map(str, range(accepted)), [])
    for i in range(settled):
        made.store(str(i))
    return made


def evidence(
    *records: Record,
    seen: Ledger | None = None,
    left: int = 0,
    counters: Mapping[str, int] | None = None,
) -> Evidence:
    return Evidence(records, seen or Ledger(), counters or {}, left, [(9.0, 11.0)], 0.3)


def test_every_request_is_counted_once() -> None:
    seen = account(
        evidence(
            record("good"),
            record("good", 422, "model_failed"),
            record("wrong"),
            record("missing"),
            record("duplicated"),
            record("refused", 503, "queue_full", retry=True),
            record("refused", 503, "queue_full"),
            record("error", 0, error="reset"),
            record("error", 0, error="timeout"),
            record("failed", 504, "timed_out"),
        )
    )
    assert (seen.sent, seen.answered, seen.wrong, seen.duplicated) == (10, 2, 2, 1)
    assert (seen.refused, seen.bare_refusals, seen.resets) == (1, 1, 1)
    assert seen.others == {"timeout": 1, "504 timed_out": 1}


def test_a_job_that_the_witness_never_saw_settled_is_lost() -> None:
    assert account(evidence(seen=ledger(3, 2))).lost == 1


@pytest.mark.parametrize(
    ("counters", "left", "lost", "duplicated"),
    [
        ({"accepted": 5, "completed": 3, "failed": 1, "expired": 1, "dead": 1}, 0, 0, 0),
        ({"accepted": 5, "completed": 3, "failed": 1, "dead": 2}, 0, 0, 0),
        ({"accepted": 5, "completed": 3}, 2, 0, 0),
        ({"accepted": 5, "completed": 3}, 1, 1, 0),
        ({"accepted": 5, "completed": 6}, 0, 0, 1),
    ],
    ids=["all ended", "one given up", "two left", "one vanished", "one ended twice"],
)
def test_the_services_own_counters_must_balance(
    counters: dict[str, int], left: int, lost: int, duplicated: int
) -> None:
    seen = account(evidence(left=left, counters=counters))
    assert (seen.lost, seen.duplicated) == (lost, duplicated)
    assert unsettled_by_counters(counters) - left == lost - duplicated


def test_latencies_are_told_apart_by_the_fault() -> None:
    before = Record(1.0, 1.0, 1.1, Outcome.GOOD, 200, "", False, "")
    seen = account(evidence(record("good"), before, record("error", 0, error="reset")))
    assert seen.p99_in_ms == pytest.approx(500)
    assert seen.p99_out_ms == pytest.approx(100)


def answer(intended: float, done: float) -> Record:
    return Record(intended, intended, done, Outcome.GOOD, 200, "", False, "")


def test_an_outage_is_the_longest_time_without_an_answer_while_something_was_broken() -> None:
    answers = [answer(9.0, 9.5), answer(10.2, 10.7), answer(9.9, 14.0), answer(30.0, 30.1)]
    more = evidence(*answers, record("refused", 503, "redis_unavailable", retry=True))
    seen = account(replace(more, faults=[(9.4, 14.5), (29.9, 30.4)]))

    assert seen.outage_s == pytest.approx(14.0 - 10.7)
    assert (seen.late, seen.without_an_end) == (1, 0)


def test_what_was_run_in_vain_or_twice_is_counted() -> None:
    assert account(replace(evidence(record("good")), runs=3)).runs_too_many == 2


@pytest.mark.parametrize(
    ("latencies_s", "share", "expected_ms"),
    [([], 0.5, None), ([0.2], 0.99, 200), ([0.1, 0.2, 0.3, 0.4], 0.5, 200)],
    ids=["none", "one", "four"],
)
def test_a_percentile_is_one_of_the_values(
    latencies_s: list[float], share: float, expected_ms: float | None
) -> None:
    assert percentile_ms(latencies_s, share) == pytest.approx(expected_ms)


def test_goodput_counts_right_answers_by_when_they_came() -> None:
    records = [record("good"), record("good"), record("wrong"), record("good")]
    assert goodput_per_s(records, 10.0, 12.0) == 1.5
    assert goodput_per_s(records, 11.0, 12.0) == 0


# -- what is printed ------------------------------------------------------------------------------


def report(*records: Record) -> Report:
    scenario = BY_NAME["kill-web"]
    seen = account(evidence(*records))
    done = {"web processes killed": 1}
    return Report(scenario, seen, done, demands(scenario, QUICK, seen, done))


def test_a_scenario_that_holds_says_so() -> None:
    text = guarantees([report(record("good"), record("error", 0, error="reset"))])
    assert "| held |" in text
    assert "web processes killed: 1" in text


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (record("wrong"), "wrong: 0 (was 1)"),
        (record("refused", 503, "busy"), "refused without Retry-After: 0 (was 1)"),
        (record("failed", 504, "timed_out"), "no other end of a request (was 1 x 504 timed_out)"),
        (record("failed", 422, "model_failed"), "1 x 422 model_failed"),
    ],
    ids=["wrong", "without Retry-After", "504", "422"],
)
def test_a_scenario_that_misses_says_what(end: Record, said: str) -> None:
    missed = report(record("good"), end)
    assert not missed.holds
    assert said in guarantees([missed])


def test_more_resets_than_slots_are_a_miss() -> None:
    resets = [record("error", 0, error="reset")] * (QUICK.slots + 1)
    assert not report(*resets).holds
    assert report(*resets[1:]).holds


def test_an_attack_that_did_nothing_is_a_miss() -> None:
    seen = account(evidence(record("good")))
    for scenario in ALL:
        assert not all(each.is_met for each in demands(scenario, QUICK, seen, {}))


def test_an_attack_that_lacks_a_right_is_told_and_fails_only_a_run_that_must_be_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = replace(BY_NAME["partition"], lacks=lambda: "the right to do it")
    monkeypatch.setitem(BY_NAME, "partition", lacking)
    assert main(["partition"]) == 0
    said = capsys.readouterr()
    assert "| `partition` | it needs the right to do it | **not run** |" in said.out
    assert "not run: it needs the right to do it" in said.err
    assert main(["partition", "--all-must-run"]) == 1


def test_the_numbers_are_those_of_the_account() -> None:
    row = numbers([report(record("good"), record("refused", 503, "busy", retry=True))])
    assert "| kill-web |    2 |        0 |        1 |    0 |" in row


def test_what_an_outage_of_redis_costs_is_a_table_of_its_own() -> None:
    seen = account(evidence(record("good"), record("failed", 504, "timed_out")))
    done = {"failovers": 2, "changes of places": 1}
    of_redis = Report(BY_NAME["move-endpoint"], seen, done, ())

    row = next(line for line in outages([report(), of_redis]).splitlines() if "move" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:8] == ["move-endpoint", "3", "2", "1", "0", "1", "0", "1.5"]
    assert outages([report()]) == ""


@pytest.mark.parametrize(
    "arguments", [["unknown"], ["poison", "--markdown", "x"]], ids=["unknown", "markdown of some"]
)
def test_a_call_that_makes_no_sense_starts_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err
