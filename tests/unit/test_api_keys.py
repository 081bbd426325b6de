"""API keys: which requests are let in, and how the file is read."""

import os
from pathlib import Path

import pytest

from imageserve.errors import Forbidden, SettingsError, Unauthorized
from imageserve.web.api_keys import CHECK_FILE_S, ApiKeys, read_api_keys

FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"


def check(keys: ApiKeys, headers: dict[str, str]) -> None:
    keys.check(headers.get("Authorization", ""), headers.get("X-API-Key", ""))


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


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(file: Path) -> None:
    clock = Clock()
    keys = ApiKeys(file, clock)

    # When the file changes, the new key is valid after a moment and the old one is not
    file.write_text("third-key-0123456789\n")
    os.utime(file, ns=(1, 1))
    clock.now += CHECK_FILE_S
    check(keys, {"X-API-Key": "third-key-0123456789"})
    with pytest.raises(Forbidden):
        check(keys, {"X-API-Key": FIRST})

    # When it is broken by mistake, no client is locked out
    for changed, content in enumerate((b"", b"\xff" * 40), start=2):
        file.write_bytes(content)
        os.utime(file, ns=(changed, changed))
        clock.now += CHECK_FILE_S
        check(keys, {"X-API-Key": "third-key-0123456789"})
