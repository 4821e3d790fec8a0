"""``initcheck trace``: who wrote each parameter."""

from __future__ import annotations

import sys
from typing import Any

import click

from initcheck.commands import options as group
from initcheck.commands.check import choose
from initcheck.commands.options import CONTEXT, SectionedCommand, flag, option
from initcheck.commands.running import settings, write
from initcheck.config import ModelSpec
from initcheck.exit_codes import CLEAN, FAILURE

_TAIL = (
    (
        "Reading the table",
        [
            ("one row a write", "In order. 'overwritten': a later write replaced all of it. 'layer default': torch's "
             "layer did it. 'library': by an installed package."),
            ("at", "The line that writes, and the lines that it was called from."),
        ],
    ),
    ("Exit code", [("0", "every model was traced"), ("2", "one could not be, or a bad option")]),
)  # fmt: skip


@click.command(
    cls=SectionedCommand,
    context_settings=CONTEXT,
    tail=_TAIL,
    help="""Show who wrote each parameter of the models in TARGET, from which line, and what it ended up as.

    TARGET is as for 'initcheck TARGET': 'model.py', 'model.py:Net', 'timm:resnet50'. The constructor runs; big tensors
    are not allocated.
    """,
)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@group.options(
    group.MODELS,
    group.ANALYSIS,
    group.JOBS,
    group.CONFIGURATION,
    (
        option("--output-format", section="Output", type=click.Choice(["text", "json"]), help="[default: text]"),
        option("--output-file", section="Output", metavar="FILE", help="Write to FILE instead of stdout."),
        flag("-q", "--quiet", section="Output", help="No progress."),
        flag("--debug", section="Output", help="Show tracebacks, of initcheck's and of the analysed code, on stderr."),
    ),
)
def trace(targets: tuple[str, ...], model: tuple[ModelSpec, ...] | None, inputs: Any, **options: Any) -> int:
    """``initcheck trace TARGET...``."""
    from initcheck import engine
    from initcheck.progress import Progress
    from initcheck.report.history import render_histories

    chosen = choose(targets, model or (), inputs)
    config = settings(chosen.paths, options, **chosen.overrides)
    with Progress(enabled=not config.quiet) as tell:
        result = engine.run(chosen.paths, config, tell, task="trace").result
    written = write(render_histories(result, config), config)
    for file in result.files:
        if config.debug and file.debug:
            print(file.debug, file=sys.stderr)
    for error in result.errors:
        print(f"initcheck: error: {error if config.debug else error.splitlines()[0]}", file=sys.stderr)
    return CLEAN if written and not result.errors and not result.all_findings() else FAILURE
