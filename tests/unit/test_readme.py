"""README, CHANGELOG and docs match the code."""

import contextlib
import functools
import io
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import imageserve
from imageserve.cli import COMMANDS, main
from imageserve.config.settings import table

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md"))]

_TEXTS = (".md", ".yaml", ".sh", ".py", ".txt", ".tpl")
_FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(rf"{_FENCED.pattern}|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def test_the_settings_of_the_readme_are_the_settings_there_are() -> None:
    text = README.read_text(encoding="utf-8")
    between = re.search(r"<!-- settings -->\n(.*?)\n?<!-- /settings -->", text, re.DOTALL)

    assert between, "README.md has no <!-- settings --> ... <!-- /settings -->"
    assert between[1].strip() == table(), "print them with: imageserve settings"


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?v?(\d+\.\d+\.\d+[^\]\s]*)", text, re.MULTILINE)

    assert versions, "CHANGELOG.md has no entry such as: ## [1.2.3] - 2026-01-31"
    assert versions[0] == imageserve.__version__


def test_every_image_that_is_named_is_of_this_version() -> None:
    named: list[str] = []
    for folder in ("README.md", "docs", "charts", "images", "skaffold.yaml", "tests/e2e"):
        files = [ROOT / folder, *(ROOT / folder).rglob("*")]
        for text in (each.read_text(encoding="utf-8") for each in files if each.suffix in _TEXTS):
            named += re.findall(r"(?:imageserve/[a-z{},]+:|--tag )(\d+\.\d+\.\d+)", text)

    assert len(named) > 5
    assert set(named) == {imageserve.__version__}


def test_every_make_target_that_the_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))

    code = _CODE.findall(README.read_text(encoding="utf-8"))
    commands = "\n".join(code).splitlines()
    named = {name for line in commands for name in _make_targets(line)}

    assert named, "README.md names no make target"
    assert named <= targets


def test_make_run_serves_imagenet_from_the_folder_that_it_makes() -> None:
    options = ("--dry-run", "--always-make", "--no-print-directory", f"PYTHON={sys.executable}")
    # This test may run below another make.
    outside = {name: os.environ[name] for name in os.environ if not name.startswith("MAKE")}

    said = subprocess.run(
        ("make", *options, "run", "MODEL=imagenet"),
        cwd=ROOT,
        env=outside,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    makes, serves = said.splitlines()[-2:]
    assert makes.endswith("tools/make_imagenet.py build/models/imagenet")
    assert serves.split() == ["MODEL=build/models/imagenet", ".venv/bin/imageserve", "run"]


def _make_targets(line: str) -> list[str]:
    return re.findall(r"\bmake ([a-z][a-z0-9-]*)", line.partition(" #")[0])


@functools.cache
def _sections(page: Path) -> set[str]:
    """Return the sections of a page, as pages on the web name them."""
    titles = re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_to_a_section_of_it(document: Path) -> None:
    prose = _CODE.sub("", document.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(<?([^)>\s]+)>?(?: \"[^\"]*\")?\)|^\[[^\]]+\]: (\S+)", prose, re.M)
    links = [inline or below for inline, below in found]

    missing = []
    for link in (each for each in links if not re.match(r"[a-z]+:", each)):
        target, _, section = link.partition("#")
        path = document.parent / target if target else document
        if not path.exists() or (path.suffix == ".md" and section not in {"", *_sections(path)}):
            missing.append(link)

    assert not missing


def _calls(document: Path) -> list[list[str]]:
    """Return the words of each call of imageserve in the blocks and spans of a page's code."""
    code = "\n".join(_CODE.findall(document.read_text(encoding="utf-8"))).replace("\\\n", " ")
    found = re.findall(r"(?<![\w/.-])imageserve (?! )([^\n`|;&#>()]*)", code)
    return [each.split() for each in found]


@functools.cache
def _help(command: tuple[str, ...]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return said.getvalue()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_of_imageserve_that_a_page_names_is_one(document: Path) -> None:
    unknown = []
    for words in _calls(document):
        command = tuple(itertools.takewhile(re.compile(r"[a-z]+$").match, words[:2]))
        if command[:1] not in {(name,) for name in COMMANDS}:
            continue
        while len(command) > 1 and f"imageserve {' '.join(command)} " not in _help(command):
            command = command[:-1]
        options = {each.partition("=")[0] for each in words if re.match("--[a-z]", each)}
        known = set(re.findall(r"--[a-z0-9-]+", _help(command)))
        unknown += [(*command, each) for each in options - known]

    assert unknown == []


def test_the_map_of_files_has_every_file_and_no_other() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Where is what")[2].partition("\n## ")[0]
    source = ROOT / "src/imageserve"
    missing = {file for file in source.rglob("*.py") if file.name != "__init__.py"}
    for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE):
        first, *more = re.findall(r"`([^`]+)`", row)
        folders = [source, ROOT, (source / first).parent, (ROOT / first).parent]
        for name in (first, *more):
            found = [each for folder in folders for each in folder.glob(name)]
            assert found, f"docs/architecture.md names {name}, which is not there"
            missing -= {*found, *(file for each in found for file in each.rglob("*.py"))}

    assert not missing, "docs/architecture.md says nothing of these"
