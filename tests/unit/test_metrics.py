"""The metrics as Prometheus reads them."""

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from imageserve import metrics


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_counter_is_shown() -> None:
    before = samples(metrics.exposition().decode())
    key = ("imageserve_jobs_total", ("m-shown", "ok-shown"))

    metrics.jobs_total.labels("m-shown", "ok-shown").inc(3)

    assert samples(metrics.exposition().decode())[key] - before.get(key, 0) == 3


def test_values_of_the_queues_are_gauges_with_model_and_queue() -> None:
    names = (
        "imageserve_queue_length",
        "imageserve_queue_background",
        "imageserve_queue_in_flight",
        "imageserve_queue_oldest_seconds",
        "imageserve_queue_dead",
        "imageserve_capacity_per_second",
        "imageserve_workers",
    )
    values = {name: float(number) for number, name in enumerate(names)}

    found = samples(metrics.exposition({("m", "q"): values, ("n", "p"): values}).decode())

    for name in names:
        assert found[name, ("m", "q")] == found[name, ("n", "p")] == values[name]


def test_queues_that_could_not_be_read_have_no_values() -> None:
    assert b"imageserve_queue_length" not in metrics.exposition({})
    assert b"imageserve_queue_length" not in metrics.exposition()


PROCESS = """
import sys
from imageserve import metrics
metrics.jobs_total.labels("m", "ok").inc(int(sys.argv[1]))
metrics.slots_in_use.inc(int(sys.argv[1]))
sys.stdin.read()
"""


def test_the_processes_of_one_server_are_added_up_and_gauges_of_dead_ones_are_dropped(
    tmp_path: Path,
) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, n], stdin=subprocess.PIPE, env=environ)
        for n in ("2", "3")
    ]
    for process in processes:
        process.communicate()
    imported = "from imageserve import metrics"
    show = f"{imported}; print(metrics.exposition().decode())"
    forget = f"{imported}; metrics.process_died({processes[0].pid})"

    def shown() -> dict[tuple[str, tuple[str, ...]], float]:
        said = subprocess.run(
            [sys.executable, "-c", show], env=environ, capture_output=True, text=True, check=True
        )
        return samples(said.stdout)

    assert shown()["imageserve_jobs_total", ("m", "ok")] == 5
    assert shown()["imageserve_slots_in_use", ()] == 5

    subprocess.run([sys.executable, "-c", forget], env=environ, check=True)

    assert shown()["imageserve_jobs_total", ("m", "ok")] == 5, "counters of dead processes stay"
    assert shown()["imageserve_slots_in_use", ()] == 3
