"""``initcheck explain`` and ``initcheck rules``: the catalogue, for reading. No torch here."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping

from initcheck.catalogue import RulePage, near_rules, rule_pages


def find_page(text: str) -> RulePage:
    """The page of a code or of a rule's name, whatever its case.

    Raises:
        LookupError: if there is no such rule; says which ones are near.
    """
    pages = rule_pages()
    by_name = {page.name: page for page in pages.values()}
    wanted = text.strip()
    page = pages.get(wanted.upper()) or by_name.get(wanted.lower().replace("_", "-"))
    if page is None:
        raise LookupError(f"there is no rule {text!r}{near_rules(wanted)}; 'initcheck rules' lists them all")
    return page


def severity_of(page: RulePage) -> str:
    """``error``, or ``up to error`` where the predicted consequence decides."""
    return f"up to {page.severity.label}" if page.by_consequence else page.severity.label


def page_markdown(page: RulePage) -> str:
    """The page under its title and facts."""
    facts = f"Severity: {severity_of(page)} · Read from: {_level(page)} · Fix: {page.fix}"
    return f"# {page.code} {page.name}\n\n{page.summary}\n\n{facts}\n\n{_without_title(page)}"


def _level(page: RulePage) -> str:
    return {"source": "the source", "model": "the model"}.get(page.level, "the source and the model")


def _without_title(page: RulePage) -> str:
    first, _, rest = page.text.partition("\n")
    return rest.lstrip() if first.startswith("# ") else page.text


def page_rendered(page: RulePage, width: int) -> str:
    """The page laid out for a terminal of ``width`` cells, with colour codes."""
    from rich.console import Console
    from rich.markdown import Markdown

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="standard", width=width or 100)
    console.print(Markdown(page_markdown(page), code_theme="ansi_dark"))
    return stream.getvalue()


def rules_text(pages: Iterable[RulePage]) -> str:
    """A table for the terminal; the summary stands last, so that a narrow terminal breaks only that."""
    rows = [(p.code, p.name, severity_of(p), p.level, p.fix, p.summary) for p in pages]
    head = ("code", "name", "severity", "level", "fix", "finds")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in (head, *rows)
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def rules_markdown(pages: Iterable[RulePage]) -> str:
    """The README's table, with links to the pages."""
    lines = ["| Code | Name | Severity | Read from | Fix | Finds |", "|---|---|---|---|---|---|"]
    for p in pages:
        link = f"[{p.code}](rules/{p.code}-{p.name}.md)"
        cells = (link, p.name, severity_of(p), p.level, p.fix, p.summary)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "".join(f"{line}\n" for line in lines)


def rules_json(pages: Iterable[RulePage]) -> str:
    """A list of objects with the keys of the pages' front matter."""
    data = [
        {
            "code": page.code,
            "name": page.name,
            "severity": page.severity.label,
            "by_consequence": page.by_consequence,
            "level": page.level,
            "fix": page.fix,
            "summary": page.summary,
        }
        for page in pages
    ]
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


RULE_FORMATS: Mapping[str, Callable[[Iterable[RulePage]], str]] = {
    "text": rules_text,
    "markdown": rules_markdown,
    "json": rules_json,
}
