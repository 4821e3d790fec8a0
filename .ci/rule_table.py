"""Write the rule table, made from the pages, between the README's two markers; ``--check``: only say if it differs."""

import contextlib
import io
import sys
from pathlib import Path

from initcheck.cli import main

START, END = "<!-- rules: made by .ci/rule_table.py -->", "<!-- end of rules -->"


def table() -> str:
    """The table as ``initcheck rules --output-format markdown`` prints it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["rules", "--output-format", "markdown"])
    return printed.getvalue().strip()


if __name__ == "__main__":
    path = Path(__file__).parent.parent / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    text = f"{before}{START}\n\n{table()}\n\n{END}{after}"
    if "--check" in sys.argv:
        if text != path.read_text(encoding="utf-8"):
            sys.exit("README.md: the rule table is not the one made from rules/: run .ci/rule_table.py")
    else:
        path.write_text(text, encoding="utf-8")
