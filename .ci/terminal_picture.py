"""Draw docs/terminal.svg: what ``initcheck examples/deep_default.py`` prints, by the tool itself."""

import contextlib
import io
import os
from pathlib import Path

from rich.console import Console
from rich.text import Text

from initcheck.cli import main

os.chdir(Path(__file__).parent.parent)
os.environ["COLUMNS"] = "110"
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    main(["examples/deep_default.py", "--color", "always"])
console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True)
console.print(Text("$ initcheck examples/deep_default.py", style="bold"))
console.print(Text.from_ansi(printed.getvalue()))
Path("docs").mkdir(exist_ok=True)
console.save_svg("docs/terminal.svg", title="initcheck")
