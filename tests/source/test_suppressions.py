import textwrap

import pytest

from initcheck.source.suppressions import Suppressions


def read(text: str) -> Suppressions:
    return Suppressions.read(textwrap.dedent(text))


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa",
        "#noqa",
        "# NOQA",
        "# noqa: IC201",
        "# noqa:IC201",
        "# noqa: ic201",
        "# noqa : IC201",
        "# noqa: IC2",
        "# noqa: IC",
        "# noqa: E501,IC201",
        "# noqa: E501 IC201",
        "# noqa: IC201 because the paper says so",
        "# type: ignore # noqa: IC201",
        "# the loss is fine  # noqa: IC201",
    ],
)
def test_comments_that_silence(comment):
    assert read(f"x = 1  {comment}\n").is_suppressed(1, "IC201")


@pytest.mark.parametrize(
    "line",
    [
        "x = 1  # noqa: E501",
        "x = 1  # noqa: IC202",
        "x = '# noqa'",
        "x = 1  # ruff: noqa",
        "x = 1  # flake8: noqa",
        "x",
    ],
)
def test_comments_that_do_not(line):
    assert not read(f"{line}\n").is_suppressed(1, "IC201")


def test_a_string_over_several_lines_is_no_comment():
    assert not read('x = """\n# noqa\n"""\n').is_suppressed(2, "IC201")


STATEMENT = """\
    nn.init.normal_(
        self.fc.weight,
        std=1.0,
    )  # noqa: IC201
    y = 1
"""


def test_on_its_last_line_a_comment_covers_a_whole_statement():
    suppressions = read(STATEMENT)
    assert [suppressions.is_suppressed(line, "IC201") for line in range(1, 6)] == [True] * 4 + [False]


def test_on_another_line_it_covers_that_line():
    suppressions = read(STATEMENT.replace("  # noqa: IC201", "").replace("weight,", "weight,  # noqa"))
    assert [suppressions.is_suppressed(line, "IC201") for line in range(1, 5)] == [False, True, False, False]


def test_a_class_header_covers_only_itself():
    suppressions = read("class A:  # noqa\n    x = 1\n")
    assert suppressions.is_suppressed(1, "IC201")
    assert not suppressions.is_suppressed(2, "IC201")


def test_file_level():
    suppressions = read("x = 1\n\n# initcheck: noqa: IC2\n")
    assert suppressions.is_suppressed(1, "IC201")
    assert not suppressions.is_suppressed(1, "IC301")
    assert read("# initcheck: noqa\n").is_suppressed(99, "IC301")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_any_line_ending_and_form_feeds(newline):
    text = newline.join(["x = 1", "\x0cy = 2  # noqa", "z = 3", ""])
    suppressions = Suppressions.read(text)
    assert [suppressions.is_suppressed(line, "IC201") for line in (1, 2, 3)] == [False, True, False]


def test_unused_comments_of_ours():
    suppressions = read("a = 1  # noqa: IC201, E501, IC301\nb = 1  # noqa\nc = 1  # noqa: E501\nd = 1  # noqa: IC7\n")
    (first, last) = suppressions.unused([(1, "IC301")])
    assert (first.line, first.codes) == (1, ("IC201",))
    assert (last.line, last.codes) == (4, ("IC7",))
    assert "a = 1  # noqa: IC201, E501, IC301"[first.column - 1 : first.end_column - 1] == "# noqa: IC201, E501, IC301"


def test_used_comments_are_not_unused():
    assert not read("a = 1  # noqa: IC2\n").unused([(1, "IC201")])
    assert not read(STATEMENT).unused([(1, "IC201")])
    assert not read("# initcheck: noqa: IC201\n").unused([(7, "IC201")])


def test_nothing_is_said_of_codes_that_could_not_be_judged():
    assert not read("a = 1  # noqa: IC201\n").unused([], unjudged={"IC201", "IC202"})
