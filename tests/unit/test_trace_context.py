"""W3C Trace Context: what of the headers is read, and what counts as absent."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.trace_context import MOST_STATE, TraceContext, read_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_a_traceparent_is_read() -> None:
    assert read_context(PARENT) == TraceContext(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    ("flags", "sampled", "random"),
    [("00", False, False), ("01", True, False), ("02", False, True), ("03", True, True)],
)
def test_its_flags_are_read_and_passed_on(flags: str, sampled: bool, random: bool) -> None:
    sent = f"00-{TRACE}-{SPAN}-{flags}"
    found = read_context(sent)
    assert found == TraceContext(TRACE, SPAN, sampled, random=random)
    assert found.traceparent == sent


def test_flags_that_are_not_known_are_not_passed_on() -> None:
    found = read_context(f"00-{TRACE}-{SPAN}-fd")
    assert found is not None
    assert found.traceparent == PARENT


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f" \t{PARENT} ", id="space around it"),
        pytest.param(f"01-{TRACE}-{SPAN}-01", id="a later version"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", id="with more"),
        pytest.param(f"fe-{TRACE}-{SPAN}-01-", id="with more that is empty"),
    ],
)
def test_what_else_is_read_as_that(text: str) -> None:
    found = read_context(text)
    assert found is not None
    assert found.traceparent == PARENT


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "-",
        pytest.param(f"ff-{TRACE}-{SPAN}-01", id="the version that is none"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01", id="trace id of zeros"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", id="span id of zeros"),
        pytest.param(PARENT.upper(), id="capitals"),
        pytest.param(f"{PARENT}-more", id="version 00 with more"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01.more", id="a later version with something else"),
        pytest.param(f"{PARENT},{PARENT}", id="two headers"),
        pytest.param(PARENT[:-1], id="too short"),
        pytest.param(f"0-{TRACE}-{SPAN}-01", id="short version"),
        pytest.param(PARENT.replace("4", "\u0664"), id="other digits"),
        pytest.param(f"{PARENT}\n", id="a line end"),
    ],
)
def test_what_is_malformed_counts_as_absent(text: str | None) -> None:
    assert read_context(text, "a=b") is None


@given(
    st.text(alphabet="0123456789abcdefABCDEF-, \t\n.g", max_size=70)
    | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", fullmatch=True)
    | st.text(max_size=80),
    st.none() | st.text(max_size=600),
)
def test_whatever_is_sent_what_comes_out_is_well_formed(sent: str, state: str | None) -> None:
    found = read_context(sent, state)
    if found is None:
        return
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", found.traceparent)
    assert found.trace_id in sent
    assert found.span_id in sent
    assert int(found.trace_id, 16) != 0 != int(found.span_id, 16)
    assert len(found.state) <= MOST_STATE
    assert re.fullmatch("[\t -~]*", found.state)
    assert read_context(found.traceparent, found.state) == found


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        ("a=1", "a=1"),
        pytest.param("a=1,b=2", "a=1,b=2", id="in its order"),
        pytest.param(" ,a=1 ,\tb=2,, ", "a=1 ,\tb=2", id="space and empty members"),
        pytest.param("a=1,,b=2", "a=1,,b=2", id="an empty member between"),
        pytest.param("fw529a3039@dt=FfffffK;x,a/b-c_d*e=:", "fw529a3039@dt=FfffffK;x,a/b-c_d*e=:"),
        pytest.param("a=", "", id="no value"),
        pytest.param("=1", "", id="no key"),
        pytest.param("a", "", id="no member"),
        pytest.param("A=1", "", id="capitals"),
        pytest.param("a=\u00e9", "", id="not ASCII"),
        pytest.param("a=1\nb", "", id="a line end"),
        pytest.param("a=b=c", "", id="an equals sign in a value"),
        pytest.param(f"a={'x' * 256}", f"a={'x' * 256}", id="longest value"),
        pytest.param(f"a={'x' * 257}", "", id="too long a value"),
        pytest.param(f"a={'x' * 250},b={'x' * 257}", "", id="one that is too long"),
        pytest.param(
            ",".join(f"k{n}=v" for n in range(32)),
            ",".join(f"k{n}=v" for n in range(32)),
            id="32 members",
        ),
        pytest.param(",".join(f"k{n}=v" for n in range(33)), "", id="33 members"),
        pytest.param(
            ",".join(f"k{n}={'x' * 100}" for n in range(6)), "", id="more than 512 characters"
        ),
        (None, ""),
    ],
)
def test_a_tracestate_is_passed_on_whole_or_not_at_all(sent: str | None, passed_on: str) -> None:
    found = read_context(PARENT, sent)
    assert found == TraceContext(TRACE, SPAN, sampled=True, state=passed_on)


def test_a_child_is_of_the_same_trace() -> None:
    parent = TraceContext(TRACE, SPAN, sampled=True, state="a=1", random=True)
    child = parent.child("1" * 16)
    assert child == TraceContext(TRACE, "1" * 16, sampled=True, state="a=1", random=True)
