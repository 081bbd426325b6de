"""The tables of docs/performance.md that are made of what was measured."""

from pathlib import Path

import plan_docs
import pytest


def test_the_page_has_the_tables_of_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_docs.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_differs_is_told_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{plan_docs.BEGIN}\n| old |\n{plan_docs.END}\nafter\n")
    monkeypatch.setattr(plan_docs, "PAGE", page)

    assert plan_docs.main(["--check"]) == 1
    assert "| old |" in page.read_text()
    assert plan_docs.main([]) == 0
    assert plan_docs.main(["--check"]) == 0

    said = page.read_text()
    assert said.startswith("before\n")
    assert said.endswith("\nafter\n")
    assert "| web cores that are busy |" in said


def test_a_page_without_a_place_for_them_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    monkeypatch.setattr(plan_docs, "PAGE", page)

    assert plan_docs.main([]) == 2
    assert page.read_text() == "nothing"
