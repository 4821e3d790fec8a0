"""Files that are opened, and parsed only where a rule needs their tree: what cannot be parsed is said all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from initcheck.config import Config
from initcheck.engine import run
from initcheck.rules import registry
from initcheck.source.file import SourceError, SourceFile


def opened(folder: Path, text: str) -> SourceFile:
    path = folder / "m.py"
    path.write_text(text, encoding="utf-8")
    return SourceFile.opened(path)


def is_parsed(source: SourceFile) -> bool:
    return "tree" in vars(source)


def test_a_file_without_weights_is_not_parsed(tmp_path: Path) -> None:
    source = opened(tmp_path, "def f(x):\n    return x + 1\n")
    assert registry.check_source(source) == ([], [])
    source.require_syntax()
    assert not is_parsed(source)


def test_a_file_with_an_init_call_is(tmp_path: Path) -> None:
    source = opened(tmp_path, "import torch\ntorch.nn.init.normal(w)\n")
    assert [f.code for f in registry.check_source(source)[0]] == ["IC801"]
    assert is_parsed(source)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\ndef f(:\n", 2, "syntax error"),
        ("print 'x'\n", 1, "Python 2"),
        ("x = '\\ud800'\ny = (\n", 2, "syntax error"),
        ("x = " + "(" * 5000 + ")" * 5000 + "\n", 1, ""),
    ],
)
def test_what_cannot_be_parsed_is_said_as_by_the_parser(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(SourceError) as parsed:
        SourceFile.parse("m.py", text)
    with pytest.raises(SourceError) as checked:
        opened(tmp_path, text).require_syntax()
    assert str(checked.value) == str(parsed.value)
    assert (checked.value.line, checked.value.column) == (parsed.value.line, parsed.value.column)
    assert checked.value.line == line
    assert message in str(checked.value)


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    x = 1\n    global x\n",
        "def f(a, a):\n    pass\n",
        "from __future__ import braces\n",
        "return 1\n",
    ],
)
def test_what_only_the_compiler_minds_is_no_matter(tmp_path: Path, text: str) -> None:
    file = opened(tmp_path, text)
    file.require_syntax()
    with pytest.raises(SyntaxError):
        compile(text, "m.py", "exec")
    assert SourceFile.parse("m.py", text).text == file.text == text


def test_a_run_names_the_file_whether_or_not_a_rule_looks_into_it(tmp_path: Path) -> None:
    for name, text in (("a.py", "def f(:\n"), ("b.py", "import torch.nn.init\ndef f(:\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    result = run([tmp_path], Config(execute=False)).result
    assert [(f.code, f.location.line) for file in result.files for f in file.findings] == [("IC001", 1), ("IC001", 2)]
    assert result.errors == ()
