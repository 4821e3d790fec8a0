"""``initcheck capture -- COMMAND``: the model of a user's own command, as it is at its first training forward."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import Any

import click

from initcheck.commands import options as group
from initcheck.commands.options import CONTEXT, SectionedCommand, checked, option, positive
from initcheck.commands.running import deliver, settings
from initcheck.config import MODES
from initcheck.exit_codes import FAILURE

_TAIL = (
    (
        "Examples",
        [
            ("initcheck capture -- python train.py --epochs 1", ""),
            ("initcheck capture -- -m pkg.train", "With the Python that runs initcheck."),
            ("initcheck capture -- torchrun --nproc-per-node 2 train.py", ""),
            ("initcheck capture --only Generator -- python dcgan.py", "Of several models, this one."),
        ],
    ),
    (
        "Exit code",
        [
            ("0", "no finding at or above --fail-on"),
            ("1", "such findings"),
            ("2", "nothing was captured: the command failed, or called no model; a bad option"),
        ],
    ),
)


@click.command(
    cls=SectionedCommand,
    context_settings={**CONTEXT, "allow_interspersed_args": False},
    tail=_TAIL,
    help="""Run COMMAND until it first calls a model in training mode, and check that model with that input.

    COMMAND runs as you wrote it: it reads its data, builds its model (whatever is dynamic about it), and is ended
    before its first training step. Findings point at the lines that wrote the parameters. What the command prints goes
    to stderr.
    """,
)
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
@group.options(
    group.RULES,
    (
        option("--only", section="Models", metavar="CLASS", help="Wait for a model of this class."),
        option("--mode", section="Models", type=click.Choice(MODES), help="Wait for this mode.  [default: train]"),
        option(
            "--timeout",
            section="Models",
            metavar="SECONDS",
            type=float,
            callback=checked(positive),
            help="For the analysis, once the model is there.  [default: 60]",
        ),
    ),
    group.CONFIGURATION,
    group.OUTPUT,
)
def capture(command: tuple[str, ...], only: str | None, **options: Any) -> int:
    """``initcheck capture -- COMMAND``."""
    from initcheck import engine
    from initcheck.capture.run import CaptureError
    from initcheck.capture.run import capture as run
    from initcheck.capture.session import Settings

    config = settings((".",), options)
    started = time.perf_counter()
    try:
        result = run(command, Settings(config, shlex.join(command), os.getcwd(), only or ""))
    except CaptureError as error:
        print(f"initcheck: error: {error if config.debug else str(error).strip().splitlines()[0]}", file=sys.stderr)
        return FAILURE
    return deliver(engine.heard([result], config, time.perf_counter() - started), config)
