"""The files of the page: small, whole, and without anything from elsewhere or inline."""

import re

import pytest

from imageserve.config.settings import Settings
from imageserve.web.page import HEADERS, page_files

MOST_BYTES = 60_000
FILES = page_files(Settings())


def test_the_whole_page_is_small() -> None:
    assert sum(len(file.body) for file in FILES.values()) <= MOST_BYTES


@pytest.mark.parametrize("path", FILES)
def test_a_file_of_the_page_names_no_other_server(path: str) -> None:
    text = FILES[path].body.decode().replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?://|//[a-z]+\.", text) == []


def test_all_files_that_the_page_names_are_there_and_no_other() -> None:
    text = "".join(file.body.decode() for file in FILES.values())
    named = {f"/page/{name}" for name in re.findall(r'"(?:page/|\./)([a-z]+\.[a-z]+)"', text)}
    assert named == FILES.keys() - {"/"}


def test_no_script_and_no_style_is_inline() -> None:
    text = FILES["/"].body.decode()
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:", text) == []
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_the_page_knows_what_the_settings_say() -> None:
    formats = frozenset({"png", "jpeg"})
    settings = Settings(max_image_bytes=12_345, image_formats=formats, api_keys_file="keys")
    text = page_files(settings)["/"].body.decode()
    assert 'data-formats="jpeg png" data-max-image-bytes="12345" data-needs-key="yes"' in text
    assert 'data-needs-key="no"' in FILES["/"].body.decode()
    assert "$" not in text
