"""API keys: which requests are let in, and how the file is read."""

import os
import re
from pathlib import Path

import pytest

from imageserve.errors import Forbidden, SettingsError, Unauthorized
from imageserve.queue.quota import Quota
from imageserve.web.api_keys import CHECK_FILE_S, ApiKeys, read_api_keys
from imageserve.web.keys_file import ANYBODY, Caller, parse_keys

FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"
QUOTA = Quota("team-a", 50.0, 100)


def check(keys: ApiKeys, headers: dict[str, str]) -> None:
    keys.caller(headers.get("Authorization", ""), headers.get("X-API-Key", ""))


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

    assert ApiKeys(path).caller(f"Bearer {key}", "") == Caller(priority=priority)
    assert ApiKeys(path).caller("", SECOND) == ANYBODY


def test_of_a_key_that_is_there_twice_the_lower_priority_counts(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{FIRST} priority=background\n{FIRST}\n")

    assert ApiKeys(path).caller("", FIRST).priority == "background"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(
            f"{FIRST} quota=0123456789",
            "line 1: word 2 is no option of a key; known are name=, rate=, burst=, models=, "
            "priority=",
            id="an unknown name",
        ),
        pytest.param(
            f"{FIRST} priority=0123456789",
            "line 1: word 2: priority is interactive or background",
            id="an unknown value",
        ),
        pytest.param(f"{FIRST} priority=background 0123456789", "line 1: word 3", id="no option"),
        pytest.param(f"{FIRST} 0123456789 rate=5", "line 1: word 2 is no", id="name= forgotten"),
        pytest.param(
            f"{FIRST} 0123456789 = a rate=5", "line 1: word 2 is no", id="spaces around ="
        ),
        pytest.param(
            f"{FIRST} priority=background priority=interactive", "priority is given twice", id="two"
        ),
        pytest.param(
            f"{FIRST} name=a models=m name=0123456789", "word 4: name is given twice", id="names"
        ),
        pytest.param(
            f"{FIRST} name=0123456789/ rate=1", "line 1: word 2: a name has 1 to 64", id="a name"
        ),
        pytest.param(f"{FIRST} name=", "word 2: a name has 1 to 64", id="an empty name"),
        pytest.param(f"{FIRST} name={'a' * 65}", "word 2: a name has", id="a long name"),
        pytest.param(f"{FIRST} name=a rate=0", "word 3: rate is pictures", id="a rate of 0"),
        pytest.param(f"{FIRST} name=a rate=-1", "word 3: rate is pictures", id="a rate below 0"),
        pytest.param(f"{FIRST} name=a rate=nan", "word 3: rate is pictures", id="no rate"),
        pytest.param(f"{FIRST} name=a rate=1e9", "word 3: rate is pictures", id="an endless rate"),
        pytest.param(
            f"{FIRST} name=a rate=100001", "from 0.000001 to 100000", id="a rate above all"
        ),
        pytest.param(f"{FIRST} name=a rate=0.0000009", "from 0.000001", id="a rate below all"),
        pytest.param(
            f"{FIRST} name=a rate=1 burst=0", "word 4: burst is pictures", id="a burst of 0"
        ),
        pytest.param(
            f"{FIRST} name=a rate=1 burst=0123456789.5", "word 4: burst is", id="half a burst"
        ),
        pytest.param(
            f"{FIRST} burst=2 name=a", "word 2: burst needs rate", id="a burst without a rate"
        ),
        pytest.param(f"{FIRST} models=m rate=2", "word 3: rate needs name", id="a rate of nobody"),
        pytest.param(
            f"{FIRST} models=0123456789,,n", "word 2: models is names", id="an empty model"
        ),
        pytest.param(f"{FIRST} models=", "word 2: models is names", id="no model"),
        pytest.param(
            f"{FIRST} name=0123456789\n\n{SECOND} name=0123456789 rate=1",
            "line 3: its name is that of line 1, its other options are not",
            id="two of a name",
        ),
        pytest.param(
            f"{FIRST} name=0123456789\n{FIRST} name=other",
            "line 2: it is the key of line 1 with other options",
            id="two of a key",
        ),
        pytest.param(
            f"{FIRST} name=a priority=background\n{FIRST} name=a",
            "line 2: its name is that of line 1, its other options are not",
            id="two priorities of a name",
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

    told = str(raised.value).partition("keys, ")[2]
    assert "0123456789" not in told
    assert FIRST not in told


@pytest.mark.parametrize(
    ("options", "caller"),
    [
        pytest.param("name=team-A_1.x", Caller("team-A_1.x"), id="a name"),
        pytest.param(
            "name=a rate=50 burst=100", Caller("a", quota=Quota("a", 50.0, 100)), id="a rate"
        ),
        pytest.param(
            "burst=7 rate=50 name=a", Caller("a", quota=Quota("a", 50.0, 7)), id="any order"
        ),
        pytest.param(
            "name=a rate=50", Caller("a", quota=Quota("a", 50.0, 50)), id="burst by default"
        ),
        pytest.param(
            "name=a rate=2.5", Caller("a", quota=Quota("a", 2.5, 3)), id="burst is rounded up"
        ),
        pytest.param(
            "name=a rate=0.001", Caller("a", quota=Quota("a", 0.001, 1)), id="burst is 1 at least"
        ),
        pytest.param("models=m,n", Caller(models=frozenset("mn")), id="models without a name"),
        pytest.param(
            "name=team-a rate=50 burst=100 models=resnet50,mobilenet priority=background",
            Caller("team-a", "background", QUOTA, frozenset({"resnet50", "mobilenet"})),
            id="all",
        ),
    ],
)
def test_a_key_may_have_options(tmp_path: Path, options: str, caller: Caller) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{FIRST} {options}\n{SECOND}\t{options}\n")

    assert ApiKeys(path).caller("", FIRST) == caller
    assert ApiKeys(path).caller("", SECOND) == caller, "two keys may have one name, and all of it"


def test_a_line_that_names_a_model_that_is_not_served_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{FIRST} models=m\n{SECOND} models=n,m\nthird-key-0123456789\n")

    ApiKeys(path).warn_of_models(["m", "o"])

    (line,) = caplog.messages
    assert "line 2: its models= names one that is not served here; served are m, o" in line


def test_the_example_in_the_document_is_a_keys_file() -> None:
    document = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (example,) = re.findall(r"^```\n(# the shop.*?)^```", document, re.M | re.S)

    keys, wrong = parse_keys(example)

    assert wrong == []
    shop = Caller("shop", quota=Quota("shop", 100.0, 200))
    night = Caller("night", "background", Quota("night", 100.0, 100))
    archive = Caller("archive", "", Quota("archive", 50.0, 100), frozenset({"resnet50"}))
    assert [key.caller for key in keys] == [shop, shop, archive, night]


def test_a_caller_may_ask_for_its_own_models_only() -> None:
    ANYBODY.check_model("m")
    caller = Caller(models=frozenset({"n", "m"}))
    caller.check_model("m")

    with pytest.raises(Forbidden, match="not for the model o, but for m, n"):
        caller.check_model("o")


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


def test_changed_options_are_in_force(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    changing = Changing(file)

    changing.write(f"{FIRST} name=a rate=1\n{SECOND} name=a rate=2\n".encode())

    assert changing.keys.caller("", FIRST) == Caller("a", quota=Quota("a", 1.0, 1))
    assert not changing.accepts(SECOND), "it contradicts a line before"
    assert (
        "line 2: its name is that of line 1, its other options are not: it is left out"
        in caplog.text
    )
    changing.write(f"{FIRST} name=b\n".encode())
    assert changing.keys.caller("", FIRST) == Caller("b")


def test_a_wrong_line_of_a_changed_file_is_named_and_the_other_keys_are_valid(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changing = Changing(file)

    changing.write(f"third-key-0123456789\n{SECOND}\u00fc\n".encode())

    assert changing.accepts("third-key-0123456789")
    assert not changing.accepts(FIRST)
    assert "line 2: U+00FC cannot be in a key" in caplog.text
    assert SECOND not in caplog.text
