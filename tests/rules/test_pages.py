"""The pages are run: what they call bad is found, what they call good is clean, and fixing bad gives a clean file.

A fence says what it is: ```` ```python bad ```` must yield the page's code and no other; codes behind ``bad`` are those
that the block must yield instead (a vanishing signal vanishes in both directions).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from initcheck.catalogue import rule_page, rule_pages
from initcheck.config import Config
from initcheck.engine import run
from initcheck.findings import Finding
from initcheck.rules import registry

_FENCE = re.compile(r"^```python (bad|good)((?: IC\d{3})*)\n(.*?)^```$", re.S | re.M)
_HEADINGS = [
    "## What it does",
    "## Why is this bad",
    "## Theory",
    "## Bad",
    "## Good",
    "## This stays quiet",
    "## References",
]


@dataclass(frozen=True)
class Block:
    code: str
    kind: str
    expected: tuple[str, ...]
    text: str


def blocks(kind: str) -> list[Block]:
    found = []
    for code, page in rule_pages().items():
        for match in _FENCE.finditer(page.text):
            if match[1] == kind:
                expected = tuple(match[2].split()) or ((code,) if kind == "bad" else ())
                found.append(Block(code, kind, expected, match[3]))
    return found


def named(block: Block) -> str:
    return block.code


def findings(tmp_path: Path, text: str, **options: object) -> tuple[list[Finding], str]:
    path = tmp_path / "model.py"
    path.write_text(text)
    outcome = run([path], Config(show_info=True, **options))  # type: ignore[arg-type]
    assert outcome.result.errors == ()
    return outcome.result.all_findings(), path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("bad"), ids=named)
def test_bad_is_found(block: Block, tmp_path: Path) -> None:
    found, _ = findings(tmp_path, block.text)
    assert sorted({f.code for f in found}) == sorted(block.expected), [f.message for f in found]
    page = rule_page(block.code)
    own = [f for f in found if f.code == block.code]
    assert len(own) == 1, [f.message for f in own]
    assert own[0].name == page.name
    assert own[0].severity <= page.severity if page.by_consequence else own[0].severity == page.severity


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("good"), ids=named)
def test_good_is_clean(block: Block, tmp_path: Path) -> None:
    found, _ = findings(tmp_path, block.text)
    assert found == [], [(f.code, f.message) for f in found]


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in blocks("bad") if rule_page(b.code).fix != "none"], ids=named)
def test_fixing_bad_gives_a_clean_file(block: Block, tmp_path: Path) -> None:
    found, text = findings(tmp_path, block.text, fix=True)
    assert found == [], [(f.code, f.message) for f in found]
    assert text != block.text


@pytest.mark.parametrize("code", rule_pages())
def test_a_page_is_complete(code: str) -> None:
    page = rule_page(code)
    assert re.findall(r"^## .*$", page.text, re.M) == _HEADINGS
    assert any(block.code == code for block in blocks("bad"))
    assert any(block.code == code for block in blocks("good"))
    assert page.summary.endswith(".")


def test_levels_say_which_rules_read_what() -> None:
    emitted_by_the_engine = {"IC001", "IC002", "IC004"}
    for code, page in rule_pages().items():
        if code not in emitted_by_the_engine:
            assert ("source" in page.level) == (code in registry.source_codes()), code
            assert ("model" in page.level) == (code in registry.model_codes()), code
