"""The desired version in Redis: one short text, which cannot name a path outside its folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.queue.desired import DesiredVersion, decode_desired, encode_desired, parse_desired

AT = 1_760_000_000_000


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        pytest.param("shapes@v2", "shapes", "v2", id="plain"),
        pytest.param("2flowers@2026-01-31", "2flowers", "2026-01-31", id="digits first"),
        pytest.param("a.b_c-d@1.0.0", "a.b_c-d", "1.0.0", id="dots, dashes, underscores"),
        pytest.param("a" * 64 + "@" + "b" * 64, "a" * 64, "b" * 64, id="as long as allowed"),
    ],
)
def test_a_name_and_a_version_are_read(text: str, name: str, version: str) -> None:
    assert parse_desired(text, AT) == DesiredVersion(name, version, AT)
    assert parse_desired(text, AT).text == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("shapes", id="no version"),
        pytest.param("shapes@", id="an empty version"),
        pytest.param("@v2", id="an empty name"),
        pytest.param("shapes@v1@v2", id="two versions"),
        pytest.param("../shapes@v2", id="out of the folder"),
        pytest.param("shapes@..", id="the folder above"),
        pytest.param("shapes@.hidden", id="hidden"),
        pytest.param("shapes@a/b", id="a path"),
        pytest.param("shapes@v2\n", id="a line end"),
        pytest.param("shäpes@v2", id="no ASCII"),
        pytest.param("shapes@" + "v" * 65, id="too long"),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME@VERSION, each of letters, digits"):
        parse_desired(text, AT)


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), st.integers(0, 10**15 - 1)
)
def test_a_written_version_is_read_again_and_stays_short(part: str, at: int) -> None:
    desired = DesiredVersion(part, part, at)

    written = encode_desired(desired)

    assert decode_desired(written) == desired
    assert len(written) <= 64 + 1 + 64 + 1 + 15


def test_an_empty_text_is_no_desired_version() -> None:
    assert decode_desired("") is None


@pytest.mark.parametrize("text", ["shapes@v2", "shapes@v2 soon", "shapes 5", " 5", "x" * 10_000])
def test_a_text_that_another_program_wrote_is_refused_with_a_short_message(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME@VERSION") as caught:
        decode_desired(text)
    assert len(str(caught.value)) < 400
