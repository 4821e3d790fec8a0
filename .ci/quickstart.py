"""Print the commands of the README's quick start, one a line: the lines of the first code block under that heading."""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
section = re.search(r"^## Quick start$(.*?)^## ", text, re.S | re.M)
block = re.search(r"^```(?:console|bash|sh)\n(.*?)^```$", section.group(1) if section else "", re.S | re.M)
if block is None:
    sys.exit("no code block under '## Quick start'")
for line in block.group(1).splitlines():
    if line.strip() and not line.startswith("#"):
        print(line)
