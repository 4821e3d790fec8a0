"""Fail unless every rule has one page and one module."""

import sys
from pathlib import Path

from initcheck.catalogue import rule_pages

pages = set(rule_pages())
modules = {p.stem[:5].upper() for p in (Path(__file__).parent.parent / "initcheck" / "rules").glob("ic[0-9]*.py")}
problems = [f"{code}: a page in rules/ but no module in initcheck/rules/" for code in sorted(pages - modules)]
problems += [f"{code}: a module in initcheck/rules/ but no page in rules/" for code in sorted(modules - pages)]
print("\n".join(problems) or f"{len(pages)} rules: pages and modules agree")
sys.exit(bool(problems))
