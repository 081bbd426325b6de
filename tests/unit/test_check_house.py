"""check_house.py finds each kind of breach."""

from pathlib import Path

import pytest
from check_house import main

LONG_FUNCTION = "def long() -> None:\n" + "    pass\n" * 40
CASES = [
    pytest.param("x = 1\n" * 451, "451 lines, more than 450", id="a long file"),
    pytest.param(LONG_FUNCTION, "long has 41 lines, more than 40", id="a long function"),
    pytest.param("__import__('json')\n", "imported by a string", id="a built-in import"),
    pytest.param(
        "import importlib\nimportlib.import_module('json')\n",
        "imported by a string",
        id="importlib",
    ),
    pytest.param("x = 'pack.part:make()'\n", "names a module by a string", id="a name"),
    pytest.param("x = 'pack.part.Class'\n", "names a module by a string", id="a class"),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "src" / "pack").mkdir(parents=True)
    (tmp_path / "src" / "pack" / "part.py").write_text('"""Of pack.part: a docstring."""\n')
    return tmp_path / "src"


@pytest.mark.parametrize(("text", "breach"), CASES)
def test_a_breach_is_named_with_its_place(
    source: Path, text: str, breach: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "pack" / "new.py").write_text(text)

    assert main([str(source)]) == 1
    said = capsys.readouterr().out
    assert breach in said
    assert f"{source / 'pack' / 'new.py'}:" in said


def test_files_without_a_breach_are_counted(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source)]) == 0
    assert capsys.readouterr().out == "1 files hold\n"
    assert main(["--numbers", str(source / "nothing")]) == 2
