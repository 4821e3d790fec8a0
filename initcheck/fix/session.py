"""Fix one file: try edits, analyse the result anew, and keep only what proves itself."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from initcheck.findings import Edit, Finding, InsertInit, Severity
from initcheck.fix.errors import EditError
from initcheck.fix.plan import edited_lines, make_plan
from initcheck.fix.writing import NotWrittenError, write_atomically
from initcheck.results import FileResult
from initcheck.source.decoding import decode
from initcheck.source.file import SourceFile

MAX_PASSES = 10
"""A fix can uncover a finding that it hid; more rounds than this would be a fix that undoes another."""

MAX_ANALYSES = 24
"""Each attempt costs one analysis of the file."""

_CANNOT_ANALYSE = ("IC001", "IC002")
_CIRCLE = "another fix undoes it"
_TOO_MANY = "the fixes before it took too many attempts; run --fix again"
_BESIDES = ("IC003", "IC004")  # a comment that a fix made superfluous does not speak against the fix


@dataclass(frozen=True, slots=True)
class FixOutcome:
    """What became of a file's fixes.

    ``applied``: the findings that are gone. ``refused``: those with a fix that was not written, and why.
    """

    new_text: str
    applied: tuple[Finding, ...] = ()
    refused: tuple[tuple[Finding, str], ...] = ()
    passes: int = 0
    written: bool = False


def fix_file(
    path: str,
    findings: Iterable[Finding],
    reanalyse: Callable[[str], FileResult],
    *,
    write: bool = True,
    before: FileResult | None = None,
) -> FixOutcome:
    """Apply the fixes of ``findings`` to a file, as far as a new analysis finds it better for them.

    An edit is kept if a finding that it was made for is gone and no finding of the same or a higher severity has come
    up. Edits are tried together, then in halves, to a fixed point (a fix can uncover another finding of the same code).

    Args:
        path: the file.
        findings: its findings; those without a fix are ignored.
        reanalyse: analyses a text as if it were the file's; suppressed findings must not be in its result.
        write: replace the file (atomically); if False, only say what would be done.
        before: the result of the analysis that gave ``findings``; made anew if not given.

    Raises:
        OSError: the file cannot be read.
        SourceError: it cannot be parsed.
    """
    data = Path(path).read_bytes()
    decoded = decode(data)
    wanted = sorted((f for f in findings if f.fix is not None), key=_rank)
    if not wanted:
        return FixOutcome(decoded.text)
    session = _Session(path, decoded.text, wanted, reanalyse, before or reanalyse(decoded.text))
    session.run()
    outcome = session.outcome()
    if not write or outcome.new_text == decoded.text:
        return outcome
    try:
        write_atomically(path, decoded.encode(outcome.new_text), data)
    except (NotWrittenError, UnicodeEncodeError) as error:
        refused = sorted([*outcome.refused, *((f, str(error)) for f in outcome.applied)], key=lambda r: r[0].sort_key)
        return FixOutcome(decoded.text, (), tuple(refused), outcome.passes)
    return FixOutcome(outcome.new_text, outcome.applied, outcome.refused, outcome.passes, written=True)


def diff(old: str, new: str, path: str) -> str:
    """The change as a unified diff that ``patch -p1`` and ``git apply`` take; empty if there is none."""
    if old == new:
        return ""
    name = path.removeprefix("/")
    lines = difflib.unified_diff(_lines(old), _lines(new), f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends one (a form feed is part of a line)."""
    parts = text.split("\n")
    return [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _rank(finding: Finding) -> tuple[object, ...]:
    """The most severe first, then in order of place."""
    return (-finding.severity, *finding.sort_key)


def _key(finding: Finding) -> tuple[str, str, str]:
    """What stays the same about a finding when lines move and numbers change."""
    return (finding.code, finding.model, finding.parameter)


def _identity(finding: Finding, lines: Sequence[str]) -> tuple[str, str, str, str]:
    """Likewise; findings that name no parameter are told apart by the text of their line."""
    line = finding.location.line
    text = lines[line - 1].strip() if not finding.parameter and 0 < line <= len(lines) else ""
    return (*_key(finding), text)


@dataclass(slots=True)
class _Group:
    """Findings that share an edit: they are fixed together or not at all."""

    findings: list[Finding]
    edits: list[Edit]


def _groups(findings: Iterable[Finding]) -> list[_Group]:
    """Groups of findings that share an edit, in order of their first finding."""
    groups: list[_Group] = []
    for finding in findings:
        edits = finding.fix.edits if finding.fix is not None else ()
        sharing = [group for group in groups if any(edit in group.edits for edit in edits)]
        merged = _Group([finding], list(edits))
        if sharing:
            first = sharing[0]
            for group in sharing[1:]:
                first.findings += group.findings
                first.edits += [edit for edit in group.edits if edit not in first.edits]
            first.findings.append(finding)
            first.edits += [edit for edit in edits if edit not in first.edits]
            groups = [group for group in groups if group is first or group not in sharing]
        else:
            groups.append(merged)
    return groups


@dataclass(slots=True)
class _Session:
    """The state of fixing one file: the best text so far and what an analysis says of it."""

    path: str
    text: str
    wanted: list[Finding]
    reanalyse: Callable[[str], FileResult]
    result: FileResult
    passes: int = 0
    analyses: int = 0
    original_lines: list[str] = field(default_factory=list)
    reasons: dict[tuple[str, str, str, str], str] = field(default_factory=dict)
    tried: dict[str, str] = field(default_factory=dict)  # text -> why it was not kept
    inserted: set[tuple[object, ...]] = field(default_factory=set)

    def run(self) -> None:
        """Try what is pending until nothing is, or nothing more can be had."""
        self.original_lines = SourceFile.parse(self.path, self.text).lines
        self.tried[self.text] = "its edit would change nothing"
        pending = self.wanted
        while pending and self.passes < MAX_PASSES:
            self.passes += 1
            source = SourceFile.parse(self.path, self.text)
            groups = [group for group in _groups(pending) if self._possible(group, source)]
            if not groups or not self._attempt(groups):
                break
            pending = self._pending()

    def outcome(self) -> FixOutcome:
        """Findings that are still there are refused; the others are fixed, by their own edit or by another's."""
        lines = SourceFile.parse(self.path, self.text).lines
        left = Counter(_identity(f, lines) for f in self._all(self.result))
        left_by_key = Counter(_key(f) for f in self._all(self.result))
        refused: list[Finding] = []
        applied: list[Finding] = []
        for finding in self.wanted:
            identity = _identity(finding, self.original_lines)
            if left[identity]:
                left[identity] -= 1
                left_by_key[_key(finding)] -= 1
                refused.append(finding)
            else:
                applied.append(finding)
        for finding in list(applied):  # still there, but its line has changed
            if left_by_key[_key(finding)] > 0:
                left_by_key[_key(finding)] -= 1
                applied.remove(finding)
                refused.append(finding)
        reasons = [(f, self._reason(f)) for f in sorted(refused, key=lambda f: f.sort_key)]
        return FixOutcome(self.text, tuple(sorted(applied, key=lambda f: f.sort_key)), tuple(reasons), self.passes)

    def _reason(self, finding: Finding) -> str:
        return self.reasons.get(_identity(finding, self.original_lines), _TOO_MANY)

    @staticmethod
    def _all(result: FileResult) -> list[Finding]:
        """What counts as still there."""
        return [f for f in result.all_findings() if f.severity >= Severity.WARNING or f.fix is not None]

    def _pending(self) -> list[Finding]:
        """Findings of the newest analysis that may be fixed: of a code (and safety) that fixes were asked for."""
        lines = SourceFile.parse(self.path, self.text).lines
        asked = {(f.code, f.fix.safe) for f in self.wanted if f.fix is not None}
        return sorted(
            (
                f
                for f in self._all(self.result)
                if f.fix is not None
                and f.location.path == self.path
                and ((f.code, f.fix.safe) in asked or (f.code, False) in asked)
                and _identity(f, lines) not in self.reasons
            ),
            key=_rank,
        )

    def _possible(self, group: _Group, source: SourceFile) -> bool:
        """Whether the group's edits find their places; if not, the reason is kept."""
        reason = self._obstacle(group, source)
        if reason:
            self._refuse(group, reason)
        return not reason

    def _obstacle(self, group: _Group, source: SourceFile) -> str:
        for finding in group.findings:
            lines = {finding.location.line, *edited_lines(source, group.edits)}
            if any(source.suppressions.is_suppressed(line, finding.code) for line in lines):
                return "a noqa comment forbids it"
        if any(_insertion(edit) in self.inserted for edit in group.edits if isinstance(edit, InsertInit)):
            return "its edit was made, but it is still found"
        try:
            make_plan(source, group.edits)
        except EditError as error:
            return error.reason
        return ""

    def _refuse(self, group: _Group, reason: str) -> None:
        lines = SourceFile.parse(self.path, self.text).lines
        for finding in group.findings:
            self.reasons[_identity(finding, lines)] = reason

    def _attempt(self, groups: Sequence[_Group]) -> bool:
        """Keep as many of the groups as prove themselves; whether the text changed (then positions have moved)."""
        reason = self._try(groups)
        if not reason:
            return True
        if len(groups) == 1:
            self._refuse(groups[0], reason)
            return False
        if self.analyses >= MAX_ANALYSES:
            return False
        half = (len(groups) + 1) // 2
        return self._attempt(groups[:half]) or self._attempt(groups[half:])

    def _try(self, groups: Sequence[_Group]) -> str:
        """Why these groups cannot be kept together; empty if they now are."""
        from initcheck.fix.apply import apply_edits

        edits = [edit for group in groups for edit in group.edits]
        try:
            text = apply_edits(self.text, self.path, edits)
        except EditError as error:
            return error.reason
        if text in self.tried:
            return self.tried[text]
        if self.analyses >= MAX_ANALYSES:
            return _TOO_MANY
        self.analyses += 1
        after = self.reanalyse(text)
        reason = _objection(groups, self.result, after)
        self.tried[text] = reason or _CIRCLE
        if not reason:
            self.text, self.result = text, after
            self.inserted.update(_insertion(edit) for edit in edits if isinstance(edit, InsertInit))
        return reason


def _insertion(edit: InsertInit) -> tuple[object, ...]:
    place = edit.class_name or edit.location.line
    return (place, edit.statements, edit.module_types, edit.over)


def _objection(groups: Sequence[_Group], before: FileResult, after: FileResult) -> str:
    """Why ``after`` is not better than ``before`` for every group; empty if it is."""
    lost = {report.model for report in before.models} - {report.model for report in after.models}
    if lost:
        return f"with it, {min(lost)} could no longer be analysed"
    if len(after.defects) > len(before.defects):
        return "with it, a rule of initcheck crashed"
    old, new = (Counter(map(_key, result.all_findings())) for result in (before, after))
    asked = Counter(_key(finding) for group in groups for finding in group.findings)
    for group in groups:
        if all(_remains(finding, asked, old, after) for finding in group.findings):
            first = group.findings[0]
            return f"with it, {first.code} ({first.name}) would still be found"
    worst = min(finding.severity for group in groups for finding in group.findings)
    for finding in sorted(after.all_findings(), key=_rank):
        if finding.code in _BESIDES or new[_key(finding)] <= old[_key(finding)]:
            continue
        if finding.severity >= worst or finding.code in _CANNOT_ANALYSE:
            return f"it would bring up {finding.code} ({finding.name}) at line {finding.location.line}"
    return ""


def _remains(
    finding: Finding, asked: Counter[tuple[str, str, str]], old: Counter[tuple[str, str, str]], after: FileResult
) -> bool:
    """Whether more findings of this key are left than were not to be fixed.

    A warning or error that is only an info afterwards has gone.
    """
    key = _key(finding)
    serious = min(finding.severity, Severity.WARNING)
    now = sum(_key(f) == key and f.severity >= serious for f in after.all_findings())
    return now > max(old[key] - asked[key], 0)
