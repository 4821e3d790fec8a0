"""The command line. ``main`` returns the exit code; torch, rich and libcst are imported only where a run needs them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence

import click

from initcheck.commands.capture import capture
from initcheck.commands.catalogue import explain, rules
from initcheck.commands.check import check
from initcheck.commands.trace import trace
from initcheck.config import ConfigError
from initcheck.exit_codes import FAILURE, INTERRUPTED

COMMANDS: Mapping[str, click.Command] = {
    "check": check,
    "trace": trace,
    "capture": capture,
    "explain": explain,
    "rules": rules,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``initcheck`` with these arguments (default: the process's own); returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    command: click.Command = check
    if given and given[0] in COMMANDS:
        command = COMMANDS[given.pop(0)]
    if not _has_current_folder():
        print("initcheck: error: the current folder no longer exists", file=sys.stderr)
        return FAILURE
    try:
        code = command.main(given, prog_name=_shown_name(command), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("initcheck: interrupted", file=sys.stderr)
        return INTERRUPTED
    except ConfigError as error:
        print(f"initcheck: error: {error}", file=sys.stderr)
        return FAILURE
    except Exception as error:
        return _crashed(error, "--debug" in given)
    return int(code or 0)


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _shown_name(command: click.Command) -> str:
    return "initcheck" if command is check else f"initcheck {command.name}"


def _crashed(error: Exception, debug: bool) -> int:
    """A defect of initcheck itself: one line, the traceback on demand."""
    if debug:
        traceback.print_exc()
    hint = "" if debug else " (--debug shows the traceback)"
    print(f"initcheck: internal error: {type(error).__name__}: {error}{hint}", file=sys.stderr)
    return FAILURE
