"""API keys: which requests are let in, and how the file is read."""

import os
from pathlib import Path

import pytest

from imageserve.errors import Forbidden, SettingsError, Unauthorized
from imageserve.web.api_keys import CHECK_FILE_S, ApiKeys, read_api_keys

FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"


def check(keys: ApiKeys, headers: dict[str, str]) -> None:
    keys.priority(headers.get("Authorization", ""), headers.get("X-API-Key", ""))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{FIRST}\n\n  {SECOND}  \n")
    return path


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Authorization": f"Bearer {FIRST}"}, id="bearer"),
        pytest.param({"Authorization": f"bearer  {SECOND}"}, id="bearer in lower case"),
        pytest.param({"X-API-Key": SECOND}, id="own header"),
        pytest.param(
            {"Authorization": "Basic abc", "X-API-Key": FIRST}, id="another scheme beside"
        ),
    ],
)
def test_a_key_of_the_file_is_accepted(file: Path, headers: dict[str, str]) -> None:
    check(ApiKeys(file), headers)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        pytest.param({}, Unauthorized, id="no key"),
        pytest.param({"Authorization": "Bearer "}, Unauthorized, id="empty bearer"),
        pytest.param({"X-API-Key": ""}, Unauthorized, id="empty header"),
        pytest.param({"X-API-Key": "# ours"}, Forbidden, id="a comment is no key"),
        pytest.param({"X-API-Key": FIRST + "x"}, Forbidden, id="longer"),
        pytest.param({"X-API-Key": FIRST[:-1]}, Forbidden, id="shorter"),
        pytest.param({"Authorization": "Bearer \udcff"}, Forbidden, id="bytes that are no text"),
    ],
)
def test_other_keys_are_refused(
    file: Path, headers: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        check(ApiKeys(file), headers)


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"short\n", b"\xff" * 40])
def test_a_file_without_usable_keys_stops_the_process(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)

    with pytest.raises(SettingsError, match="API_KEYS_FILE"):
        ApiKeys(path)


def test_without_a_file_there_are_no_keys_to_ask_for(file: Path) -> None:
    assert read_api_keys(None) is None
    assert isinstance(read_api_keys(str(file)), ApiKeys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(
            f"# ours\n{FIRST}\nschl\u00fcssel-0123456789\n", "line 3: U\\+00FC", id="umlaut"
        ),
        pytest.param(f"{FIRST}\n\ufeff{SECOND}\n", "line 2: U\\+FEFF", id="a BOM in the middle"),
        pytest.param(f"{FIRST}\u200b\n", "line 1: U\\+200B", id="a space of no width"),
        pytest.param(f"{FIRST}\u00a0\n", "line 1: U\\+00A0", id="a space that does not break"),
        pytest.param(f"first\x01{FIRST}\n", "line 1: U\\+0001", id="a control character"),
        pytest.param(f"{FIRST}\nshort\n", "line 2: a key has fewer", id="a short key"),
    ],
)
def test_a_key_that_could_never_match_is_named_by_its_line(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(SettingsError, match=said) as raised:
        ApiKeys(path)

    assert "0123456789" not in str(raised.value), "a key is a secret"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_file_of_an_editor_that_begins_it_with_a_bom_is_read(
    tmp_path: Path, line_end: str
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(f"\ufeff{FIRST}{line_end}{SECOND}".encode())

    for key in (FIRST, SECOND):
        check(ApiKeys(path), {"X-API-Key": key})


@pytest.mark.parametrize(
    ("line", "key", "priority"),
    [
        pytest.param(FIRST, FIRST, "", id="a key alone"),
        pytest.param(f"{FIRST} priority=background", FIRST, "background", id="background"),
        pytest.param(f"{FIRST}\t priority=interactive", FIRST, "", id="interactive"),
        pytest.param(f"{FIRST} and more", f"{FIRST} and more", "", id="a key of three words"),
        pytest.param(f"{FIRST}=a", f"{FIRST}=a", "", id="a key with an equals sign"),
    ],
)
def test_a_key_may_have_a_priority(tmp_path: Path, line: str, key: str, priority: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{line}\n{SECOND}\n")

    assert ApiKeys(path).priority(f"Bearer {key}", "") == priority
    assert ApiKeys(path).priority("", SECOND) == ""


def test_of_a_key_that_is_there_twice_the_lower_priority_counts(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{FIRST} priority=background\n{FIRST}\n")

    assert ApiKeys(path).priority("", FIRST) == "background"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(
            f"{FIRST} name=0123456789",
            "line 1: word 2 is no option of a key; known are priority=interactive and "
            "priority=background",
            id="an unknown name",
        ),
        pytest.param(f"{FIRST} priority=0123456789", "line 1: word 2", id="an unknown value"),
        pytest.param(f"{FIRST} priority=background 0123456789", "line 1: word 3", id="no option"),
        pytest.param(
            f"{FIRST} priority=background priority=interactive", "priority is given twice", id="two"
        ),
        pytest.param("0123456789 priority=background", "a key has fewer", id="a short key"),
        pytest.param(f"{FIRST}\u00a0priority=background", "U\\+00A0", id="a strange space"),
    ],
)
def test_an_option_that_is_not_known_is_an_error_that_tells_no_secret(
    tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(line, encoding="utf-8")

    with pytest.raises(SettingsError, match=said) as raised:
        ApiKeys(path)

    assert "0123456789" not in str(raised.value).partition("keys, ")[2]


class Changing:
    """A keys file that changes while it is in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clock = Clock()
        self._changes = 0
        self.keys = ApiKeys(path, self._clock)

    def write(self, content: bytes) -> None:
        self._path.write_bytes(content)
        self._changes += 1
        os.utime(self._path, ns=(self._changes, self._changes))
        self._clock.now += CHECK_FILE_S

    def remove(self) -> None:
        self._path.unlink()
        self._clock.now += CHECK_FILE_S

    def accepts(self, key: str) -> bool:
        try:
            check(self.keys, {"X-API-Key": key})
        except Forbidden:
            return False
        return True


def test_a_changed_file_is_read_again(file: Path) -> None:
    changing = Changing(file)

    changing.write(b"third-key-0123456789\n")

    assert changing.accepts("third-key-0123456789")
    assert not changing.accepts(FIRST)


def test_a_file_that_cannot_be_read_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changing = Changing(file)

    changing.write(b"\xff" * 40)
    assert changing.accepts(FIRST)
    changing.remove()
    assert changing.accepts(FIRST)

    assert caplog.text.count("the old ones stay valid") == 2


@pytest.mark.parametrize("content", [b"", b"# nobody\n", b"short\n"])
def test_a_file_that_holds_no_key_any_more_lets_nobody_in(
    file: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    changing = Changing(file)

    changing.write(content)

    assert not changing.accepts(FIRST)
    assert "holds no key: nobody may call" in caplog.text


def test_a_wrong_line_of_a_changed_file_is_named_and_the_other_keys_are_valid(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changing = Changing(file)

    changing.write(f"third-key-0123456789\n{SECOND}\u00fc\n".encode())

    assert changing.accepts("third-key-0123456789")
    assert not changing.accepts(FIRST)
    assert "line 2: U+00FC cannot be in a key" in caplog.text
    assert SECOND not in caplog.text
