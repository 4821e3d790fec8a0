"""The rule catalogue: the pages of ``rules/``, whose front matter is the single source of code, name and severity."""

from __future__ import annotations

import difflib
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from initcheck.findings import Severity


@dataclass(frozen=True, slots=True)
class RulePage:
    """One page, ``rules/IC701-zero-weight-symmetry.md``.

    ``level``: ``source``, ``model`` or ``source+model``. ``severity``: the default; ``by_consequence``: the predicted
    signal decides, and ``severity`` is the worst it gives. ``fix``: ``safe``, ``unsafe`` or ``none``.
    """

    code: str
    name: str
    severity: Severity
    by_consequence: bool
    level: str
    fix: str
    summary: str
    text: str


_KEYS = ("code", "name", "severity", "by-consequence", "level", "fix", "summary")
_CHOICES = {
    "severity": ("error", "warning", "info"),
    "by-consequence": ("no", "yes"),
    "level": ("source", "model", "source+model"),
    "fix": ("safe", "unsafe", "none"),
}


def _pages_folder() -> Path:
    packaged = Path(__file__).parent / "_pages"  # in the wheel
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "rules"


@functools.cache
def rule_pages() -> dict[str, RulePage]:
    """All pages by code, sorted.

    Raises:
        ValueError: if a page's front matter is malformed (a defect of the package, not of the user's input).
    """
    pages = [_parse(path) for path in sorted(_pages_folder().glob("IC*.md"))]
    return {page.code: page for page in pages}


def rule_page(code: str) -> RulePage:
    """The page of ``code``.

    Raises:
        KeyError: if there is no such rule.
    """
    return rule_pages()[code]


def near_rules(text: str) -> str:
    """`` (what is near)`` for a text that is no rule: the codes of its group, or the name that it resembles."""
    pages = rule_pages()
    group = [code for code in pages if re.fullmatch(r"IC\d+", text, re.IGNORECASE) and code[:3] == text[:3].upper()]
    if group:
        return f" (there are {', '.join(group)})"
    names = difflib.get_close_matches(text.lower(), [page.name for page in pages.values()], n=1)
    return f" (did you mean {names[0]!r}?)" if names else ""


def _parse(path: Path) -> RulePage:
    text = path.read_text(encoding="utf-8")
    _, _, rest = text.partition("---\n")
    head, found, body = rest.partition("\n---\n")
    if not text.startswith("---\n") or not found:
        raise ValueError(f"{path.name}: no front matter between two '---' lines")
    meta: dict[str, str] = {}
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"{path.name}: front matter line without a colon: {line!r}")
        if key.strip() not in _KEYS:
            raise ValueError(
                f"{path.name}: unknown key {key.strip()!r} in the front matter: expected {', '.join(_KEYS)}"
            )
        meta[key.strip()] = value.strip()
    missing = [key for key in _KEYS if key not in meta and key != "by-consequence"]
    if missing:
        raise ValueError(f"{path.name}: front matter lacks {', '.join(missing)}")
    for key, choices in _CHOICES.items():
        if meta.get(key, choices[0]) not in choices:
            raise ValueError(f"{path.name}: {key}: expected one of {', '.join(choices)}; got {meta[key]!r}")
    if path.stem != f"{meta['code']}-{meta['name']}":
        raise ValueError(f"{path.name}: the file name must be {meta['code']}-{meta['name']}.md")
    return RulePage(
        code=meta["code"],
        name=meta["name"],
        severity=Severity.parse(meta["severity"]),
        by_consequence=meta.get("by-consequence", "no") == "yes",
        level=meta["level"],
        fix=meta["fix"],
        summary=meta["summary"],
        text=body.strip() + "\n",
    )
