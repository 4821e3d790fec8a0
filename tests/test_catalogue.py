"""The catalogue: pages are read strictly, so that what users read is what the program does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from initcheck import catalogue
from initcheck.catalogue import near_rules, rule_page, rule_pages
from initcheck.explain import find_page, page_markdown, page_rendered, rules_json, rules_markdown, rules_text
from initcheck.findings import Severity

PAGE = """\
---
code: IC999
name: too-blue
severity: warning
by-consequence: yes
level: model
fix: none
summary: The weights are too blue: paint them.
---

## What it does

Looks.
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(catalogue, "_pages_folder", lambda: tmp_path)
    rule_pages.cache_clear()
    yield tmp_path
    rule_pages.cache_clear()


def test_a_page_is_read(folder: Path) -> None:
    (folder / "IC999-too-blue.md").write_text(PAGE, encoding="utf-8")
    page = rule_page("IC999")
    assert (page.name, page.severity, page.by_consequence) == ("too-blue", Severity.WARNING, True)
    assert (page.level, page.fix) == ("model", "none")
    assert page.summary == "The weights are too blue: paint them."
    assert page.text == "## What it does\n\nLooks.\n"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("severity: warning", "severity: fatal", "severity: expected one of error, warning, info; got 'fatal'"),
        ("level: model", "level: sauce", "level: expected one of"),
        ("fix: none", "fix: maybe", "fix: expected one of"),
        ("by-consequence: yes", "by-consequence: true", "by-consequence: expected one of no, yes"),
        ("summary: ", "sumary: ", "unknown key 'sumary'"),
        ("fix: none\n", "", "lacks fix"),
        ("fix: none", "fix none", "without a colon"),
        ("name: too-blue", "name: too-red", "file name must be IC999-too-red.md"),
        ("---\ncode", "code", "no front matter"),
    ],
)
def test_a_malformed_page_is_named(folder: Path, old: str, new: str, complaint: str) -> None:
    assert old in PAGE
    (folder / "IC999-too-blue.md").write_text(PAGE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        rule_pages()
    assert "IC999-too-blue.md" in str(caught.value)


def test_the_pages_of_the_package_are_sound() -> None:
    pages = rule_pages()
    assert {"IC001", "IC002", "IC201", "IC202", "IC701", "IC801"} <= set(pages)
    assert list(pages) == sorted(pages)
    assert len({page.name for page in pages.values()}) == len(pages)
    for page in pages.values():
        assert re.fullmatch(r"IC\d{3}", page.code)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", page.name)
        assert page.summary
        assert len(page.text) > 100


def test_a_rule_is_found_by_code_or_name_whatever_its_case() -> None:
    assert find_page("ic701") is find_page("zero-weight-symmetry") is find_page("Zero_Weight_Symmetry ")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("IC799", "there are IC701, "),
        ("zero-wait-symmetry", "did you mean 'zero-weight-symmetry'?"),
        ("x", "lists them all"),
    ],
)
def test_an_unknown_rule_is_answered_with_what_is_near(text: str, hint: str) -> None:
    with pytest.raises(LookupError, match=re.escape(hint)):
        find_page(text)
    assert near_rules("quite different") == ""


def test_a_page_as_markdown_and_on_a_terminal() -> None:
    page = rule_page("IC701")
    assert page_markdown(page).startswith("# IC701 zero-weight-symmetry\n")
    assert page_markdown(page).count("\n# ") == 0  # one title
    rendered = page_rendered(page, 80)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", rendered)
    assert "IC701 zero-weight-symmetry" in plain
    assert "##" not in plain.replace("###", "")
    assert all(len(line) <= 80 for line in plain.splitlines())


def test_the_rule_tables_hold_every_rule() -> None:
    pages = list(rule_pages().values())
    rows = rules_markdown(pages).splitlines()
    assert len(rows) == len(pages) + 2
    assert all(row.count("|") - row.count("\\|") == 7 for row in rows)
    assert "| [IC701](rules/IC701-zero-weight-symmetry.md) | zero-weight-symmetry |" in "\n".join(rows)
    assert [entry["code"] for entry in json.loads(rules_json(pages))] == [page.code for page in pages]
    listed = rules_text(pages).splitlines()
    assert [line.split()[0] for line in listed] == ["code", *(page.code for page in pages)]
