"""What gunicorn's master says of its web processes."""

import json

import pytest

from imageserve.web.lifecycle import Lifecycle
from imageserve.web.probe_port import HUNG_S, UNREADY_S, Beacon, Seen, WebProbes

NOW = 1000.0
Told = tuple[int, str]


def seen(age_s: float = 0.0, *, ready: bool = True, stopping: bool = False) -> Seen:
    beacon = Beacon()
    beacon.tell(Lifecycle(ready=ready, stopping=stopping))
    return Seen(NOW - age_s, beacon)


def told(path: str, *processes: Seen, draining: bool = False) -> Told:
    probes = WebProbes(lambda: processes, lambda: draining, lambda: NOW)
    status, kind, body = probes.answers()[path]()
    assert kind == "application/json"
    return status, json.loads(body)["status"]


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        pytest.param([], (503, "waiting for Redis"), id="none yet"),
        pytest.param([seen(ready=False)], (503, "waiting for Redis"), id="no contact yet"),
        pytest.param([seen(), seen(ready=False)], (200, "ready"), id="one is replaced"),
        pytest.param([seen(UNREADY_S - 1)], (200, "ready"), id="late"),
        pytest.param([seen(UNREADY_S + 1)], (503, "waiting for Redis"), id="hangs"),
        pytest.param([seen(UNREADY_S + 1), seen()], (200, "ready"), id="one hangs"),
        pytest.param([seen(stopping=True)], (503, "draining"), id="stopping"),
        pytest.param([seen(stopping=True), seen()], (200, "ready"), id="after HUP"),
    ],
)
def test_the_server_is_ready_while_one_of_its_processes_is(
    processes: list[Seen], expected: Told
) -> None:
    assert told("/readyz", *processes) == expected


def test_it_is_not_ready_while_it_drains() -> None:
    assert told("/readyz", seen(), draining=True) == (503, "draining")


@pytest.mark.parametrize(
    ("processes", "status"),
    [
        pytest.param([], 503, id="none yet"),
        pytest.param([seen(ready=False)], 200, id="without Redis"),
        pytest.param([seen(stopping=True)], 200, id="stopping"),
        pytest.param([seen(HUNG_S - 1)], 200, id="hangs, and gunicorn will see to it"),
        pytest.param([seen(HUNG_S + 1)] * 2, 503, id="all hang"),
        pytest.param([seen(HUNG_S + 1), seen()], 200, id="one hangs"),
    ],
)
def test_it_is_healthy_while_one_gives_a_sign_of_life(processes: list[Seen], status: int) -> None:
    assert told("/healthz", *processes)[0] == status


def test_it_stays_healthy_for_a_while_after_its_last_process_has_ended() -> None:
    processes, now = [seen()], [NOW]
    probes = WebProbes(lambda: processes, lambda: False, lambda: now[0])
    healthz = probes.answers()["/healthz"]
    assert healthz()[0] == 200

    processes.clear()
    now[0] = NOW + HUNG_S - 1
    assert healthz()[0] == 200
    now[0] = NOW + HUNG_S + 1
    assert healthz()[0] == 503
