"""What is known of one mutant: what was spoiled, the measured harm, what was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One mutant.

    ``layers``: spoiled modules of a live model. ``lines``: where a finding may point in a spoiled file. ``harmful`` and
    ``why``: as measured. ``found``: the findings that the good model does not have. ``problem``: why there is no
    verdict. ``code``: fingerprint of the version of initcheck that gave it.
    """

    mutation: str
    model: str
    site: int
    layers: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    harmful: bool = False
    why: str = ""
    found: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""
    code: str = ""

    @property
    def applicable(self) -> bool:
        return bool(self.layers or self.lines)

    @property
    def detected(self) -> bool:
        return any(f["severity"] != "info" for f in self.found)

    @property
    def first(self) -> dict[str, Any]:
        return next((f for level in ("error", "warning") for f in self.found if f["severity"] == level), {})

    @property
    def errors(self) -> bool:
        return any(f["severity"] == "error" for f in self.found)

    def right(self, codes: tuple[str, ...]) -> bool:
        """Whether the first finding has one of these codes and names a spoiled layer, or stands at the spoiled line."""
        if not self.first or self.first["code"] not in codes:
            return False
        where = self.first["parameter"]
        return self.first.get("line") in self.lines or any(
            where == name or where.startswith(f"{name}.") for name in self.layers
        )
