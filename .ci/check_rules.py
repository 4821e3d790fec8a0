"""Fail unless every rule has one page and one module, and the README's table is the one made from the pages."""

import re
import sys
from pathlib import Path

from initcheck.catalogue import rule_pages

root = Path(__file__).parent.parent
pages = set(rule_pages())
modules = {path.stem[:5].upper() for path in (root / "initcheck" / "rules").glob("ic[0-9]*.py")}
problems = [f"{code}: a page in rules/ but no module in initcheck/rules/" for code in sorted(pages - modules)]
problems += [f"{code}: a module in initcheck/rules/ but no page in rules/" for code in sorted(modules - pages)]

readme = (root / "README.md").read_text(encoding="utf-8")
shown = dict(re.findall(r"^\| \[(IC\d{3})\]\((rules/[^)]+)\)", readme, re.M))
problems += [f"{code}: missing in the README's table" for code in sorted(pages - set(shown))]
problems += [f"{code}: in the README's table, but there is no such rule" for code in sorted(set(shown) - pages)]
problems += [f"{code}: the README links to {link}, which does not exist" for code, link in shown.items() if not (root / link).exists()]
for code, page in rule_pages().items():
    row = f"| [{code}](rules/{code}-{page.name}.md) | {page.name} |"
    if row not in readme:
        problems.append(f"{code}: the README's row does not begin with {row!r}")

print("\n".join(problems) or f"{len(pages)} rules agree")
sys.exit(bool(problems))
