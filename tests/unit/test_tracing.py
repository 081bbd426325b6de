"""Which spans are recorded, and what becomes of them where a collector does not take them."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from tests.spans import CALLER, UNSAMPLED, KeptSpans

from imageserve import metrics, tracing
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.trace_context import Span
from imageserve.tracing import (
    BATCH,
    NO_TRACER,
    RecordingTracer,
    Sender,
    check_tracing,
    full_address,
    open_tracer,
)

SPAN = Span("request", CALLER, None, 1.0, 2.0, {})


def lost(reason: str) -> float:
    value: float = metrics.labelled(metrics.spans_lost_total, reason)._value.get()
    return value


# -- which ----------------------------------------------------------------------------------------


def test_without_a_tracer_what_callers_send_is_passed_on_and_nothing_is_recorded() -> None:
    assert NO_TRACER.begin(CALLER) is CALLER
    assert NO_TRACER.begin(UNSAMPLED) is UNSAMPLED
    assert NO_TRACER.begin(None) is None
    assert NO_TRACER.root() is None
    assert not NO_TRACER.records(CALLER)


def test_a_span_of_a_sampled_caller_is_its_child() -> None:
    tracer = RecordingTracer(0.0, KeptSpans())
    found = tracer.begin(CALLER)
    assert found is not None
    assert found.span_id != CALLER.span_id
    assert found._replace(span_id=CALLER.span_id) == CALLER
    assert tracer.records(found)


def test_an_unsampled_caller_is_passed_on_as_it_came() -> None:
    kept = KeptSpans()
    tracer = RecordingTracer(1.0, kept)
    assert tracer.begin(UNSAMPLED) is UNSAMPLED
    assert not tracer.records(UNSAMPLED)
    tracer.record(replace(SPAN, context=UNSAMPLED))
    assert kept.spans == []


def test_without_a_caller_the_share_decides() -> None:
    assert RecordingTracer(0.0, KeptSpans()).begin(None) is None
    found = RecordingTracer(1.0, KeptSpans()).begin(None)
    assert found is not None
    assert found.sampled
    assert found.random


def test_spans_have_ids_of_their_own() -> None:
    tracer = RecordingTracer(1.0, KeptSpans())
    roots = [tracer.root() for _ in range(100)]
    assert len({root.trace_id for root in roots}) == len({root.span_id for root in roots}) == 100


def test_a_sampled_span_is_kept() -> None:
    kept = KeptSpans()
    RecordingTracer(0.0, kept).record(SPAN)
    assert kept.spans == [SPAN]


# -- sending --------------------------------------------------------------------------------------


class StandInExporter:
    """Takes spans, or says why not."""

    def __init__(self) -> None:
        self.batches: list[list[Span]] = []
        self.problem = ""
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = threading.Event()

    def export(self, spans: Sequence[Span]) -> str:
        self.asked.set()
        assert self.may_answer.wait(30)
        if not self.problem:
            self.batches.append(list(spans))
        return self.problem

    @property
    def spans(self) -> list[Span]:
        return [span for batch in self.batches for span in batch]


def numbered(count: int) -> list[Span]:
    return [replace(SPAN, name=str(number)) for number in range(count)]


def test_spans_are_sent_in_their_order_a_few_at_once_and_all_of_them_at_the_end() -> None:
    exporter = StandInExporter()
    sender = Sender(exporter.export)
    spans = numbered(3 * BATCH + 1)
    for span in spans:
        sender.keep(span)
    sender.close(30)
    assert exporter.spans == spans
    assert max(map(len, exporter.batches)) <= BATCH


def test_a_span_does_not_wait_for_others_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EVERY_S", 0.01)
    exporter = StandInExporter()
    sender = Sender(exporter.export)
    sender.keep(SPAN)
    assert exporter.asked.wait(30)
    sender.close(30)


def test_where_the_collector_hangs_spans_are_lost_and_not_memory() -> None:
    exporter = StandInExporter()
    exporter.may_answer.clear()
    before = lost("queue full"), lost("end of process")
    sender = Sender(exporter.export, most_waiting=40)
    for span in numbered(BATCH):
        sender.keep(span)
    assert exporter.asked.wait(30)  # These are on their way.
    for span in numbered(100):
        sender.keep(span)
    sender.close(0.01)
    assert lost("queue full") - before[0] == 60
    assert lost("end of process") - before[1] == 40
    exporter.may_answer.set()
    sender.close(30)
    assert len(exporter.spans) == BATCH


def test_an_outage_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="imageserve.tracing")
    exporter, before = StandInExporter(), lost("not sent")
    exporter.problem = "it is away"
    sender = Sender(exporter.export)
    for span in numbered(2 * BATCH):
        sender.keep(span)
    _until(lambda: lost("not sent") - before == 2 * BATCH)
    exporter.problem = ""
    sender.keep(SPAN)
    sender.close(30)
    assert [record.getMessage() for record in caplog.records] == [
        "spans are lost until TRACES_ENDPOINT takes them; requests are not affected: it is away",
        f"spans are sent again; {2 * BATCH} were lost",
    ]


def test_a_bug_in_the_exporter_loses_its_spans_and_no_others() -> None:
    batches = []

    def export(spans: Sequence[Span]) -> str:
        batches.append(len(spans))
        if len(batches) == 1:
            raise ValueError("cannot be encoded")
        return ""

    before, sender = lost("not sent"), Sender(export)
    for span in numbered(2 * BATCH):
        sender.keep(span)
    sender.close(30)
    assert sum(batches) == 2 * BATCH
    assert lost("not sent") - before == batches[0]


def _until(happened: Callable[[], bool]) -> None:
    for _ in range(3000):
        if happened():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


# -- settings -------------------------------------------------------------------------------------


def test_without_an_endpoint_there_is_no_tracer() -> None:
    check_tracing(Settings())
    assert open_tracer(Settings(), "web") is NO_TRACER


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    # Redis's client would import a part of the SDK where it is installed: 3 MB of each process.
    # A namespace package, which has no file, is of no weight.
    code = (
        "import sys\n"
        "from imageserve.config.settings import Settings\n"
        "from imageserve.tracing import open_tracer\n"
        "import imageserve.grpc_server.process, imageserve.web.wsgi, imageserve.worker.process\n"
        "open_tracer(Settings(), 'web')\n"
        "print([name for name, module in sys.modules.items()"
        " if name.startswith('opentelemetry') and module.__file__])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.exporter.otlp.proto.http"])
def test_an_endpoint_without_the_extra_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> None:
        if missing != name:  # A parent that is not there.
            raise ModuleNotFoundError(missing)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    settings = Settings(traces_endpoint="http://collector:4318")
    with pytest.raises(SettingsError, match=r"pip install 'imageserve\[tracing\]'"):
        open_tracer(settings, "web")


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_the_usual_path_is_added_where_there_is_none(endpoint: str, address: str) -> None:
    assert full_address(endpoint) == address
