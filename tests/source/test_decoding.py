import codecs
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initcheck.source.decoding import decode, split_lines
from initcheck.source.file import SourceError, SourceFile


def read(tmp_path, data: bytes) -> SourceFile:
    path = tmp_path / "net.py"
    path.write_bytes(data)
    return SourceFile.read(path)


def error_of(tmp_path, data: bytes) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read(tmp_path, data)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"x = 1",
        b"x = 1\r\ny = 2\r\n",
        b"x = 1\ry = 2\r",
        b"x = 1\n\x0cdef f():\n    pass\n",
        codecs.BOM_UTF8 + b"x = '\xc3\xa9'\n",
        b"# -*- coding: latin-1 -*-\nx = '\xe9'\n",
        b"#!/usr/bin/env python\n# vim: set fileencoding=cp1252 :\nx = '\x80'\n",
    ],
    ids=["empty", "newline", "no-newline", "crlf", "cr", "form-feed", "bom", "latin-1", "cp1252-line-2"],
)
def test_reads_what_python_reads_and_writes_back_the_same_bytes(tmp_path, data):
    source = read(tmp_path, data)
    assert source.decoded.encode(source.text) == data
    assert not source.text.startswith("\ufeff")


@pytest.mark.parametrize(
    ("data", "line", "column", "words"),
    [
        (b"x = (\n", 1, 5, "syntax error"),
        (b"x = 1\ny = '\xe9'\n", 2, 6, "0xe9 is not valid UTF-8"),
        (b"# -*- coding: nonsense -*-\n", 1, 1, "nonsense"),
        (b"x = 1\ny\0 = 2\n", 2, 2, "null byte"),
        ("x = 1".encode("utf-16"), 1, 1, "UTF-16"),
        (b"\x80\x04\x95\n", 1, 1, "not valid UTF-8"),
    ],
    ids=["syntax", "bytes", "encoding", "null", "utf-16", "binary"],
)
def test_what_is_no_python_text_is_told_with_its_place(tmp_path, data, line, column, words):
    error = error_of(tmp_path, data)
    assert words in error.message
    assert (error.line, error.column) == (line, column)


@pytest.mark.parametrize(
    "text",
    [
        'print "x"\n',
        'exec "x = 1"\n',
        "try:\n    pass\nexcept E, e:\n    pass\n",
        'raise ValueError, "x"\n',
        "x = ur'a'\n",
        "x = `y`\n",
        "if x <> y:\n    pass\n",
        "mode = 0777\n",
        "big = 10L\n",
    ],
)
def test_python_2_is_named(tmp_path, text):
    assert "looks like Python 2" in error_of(tmp_path, text.encode()).message


@pytest.mark.parametrize("text", ["def f(:\n", "x = = 1\n", "class A\n    pass\n", "return = 'print x'\n"])
def test_other_syntax_errors_are_not_called_python_2(tmp_path, text):
    assert error_of(tmp_path, text.encode()).message.startswith("syntax error")


def test_a_deeply_nested_expression_is_read_or_refused_but_never_crashes(tmp_path):
    source = read(tmp_path, ("x = " + " + ".join(["torch"] * 1500) + "\n").encode())
    assert source.imports.resolve(source.tree.body[0].value) is None
    assert "nested" in error_of(tmp_path, b"-" * 100_000 + b"1").message


def test_too_large_a_file_is_refused(tmp_path):
    assert "16 MiB" in error_of(tmp_path, b"#" * (16 * 2**20 + 1)).message


def test_warnings_of_the_parser_are_not_shown(tmp_path, recwarn):
    read(tmp_path, b"x = '\\d'\nif x is 1:\n    pass\n")
    assert not recwarn.list


def test_missing_files_and_folders_are_os_errors(tmp_path):
    for path in (tmp_path, tmp_path / "none.py"):
        with pytest.raises(OSError, match=str(path)):
            SourceFile.read(path)


@settings(deadline=None)
@given(st.text(alphabet="ab \t\n\r\x0c\x1c\u2028é"))
def test_lines_are_split_as_the_parser_counts_them(text):
    lines = split_lines(text)
    assert len(lines) == text.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
    assert "".join(lines) == text.replace("\r", "").replace("\n", "")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_decoding_never_fails_otherwise(data):
    try:
        decoded = decode(data)
    except SourceError:
        return
    assert decoded.encode(decoded.text) == data


def test_positions_count_characters_not_bytes():
    source = SourceFile.parse("net.py", "é = 'ü'; x = f(ä)\n")
    where = source.location(source.tree.body[1].value)
    assert (where.line, where.column, where.end_line, where.end_column) == (1, 14, 1, 18)
    assert source.lines[0][where.column - 1 : where.end_column - 1] == "f(ä)"


def test_reading_needs_no_torch():
    import subprocess

    code = "import initcheck.source.file, sys; assert 'torch' not in sys.modules and 'libcst' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
