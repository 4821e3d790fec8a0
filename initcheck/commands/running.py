"""What commands do around a run: settings, streams, the report and the exit code."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from initcheck.config import Config
from initcheck.config_file import load_config, parse_fail_on
from initcheck.exit_codes import FAILURE

if TYPE_CHECKING:
    from initcheck.engine import Run


def settings(paths: Iterable[str], options: Mapping[str, Any], **overrides: Any) -> Config:
    """The configuration for these paths: that of their project, then what was given on the command line.

    Args:
        paths: what is to be checked.
        options: values by option name, None where an option was not given; ``config``, ``isolated`` and ``color`` too.
        overrides: attributes of ``Config`` that win over all.
    """
    given = {name: value for name, value in options.items() if value is not None}
    file, isolated, color = given.pop("config", None), given.pop("isolated", False), given.pop("color", "auto")
    if file is not None and isolated:
        raise click.UsageError("--config and --isolated exclude each other")
    if "fail_on" in given:
        given["fail_on"] = parse_fail_on(given["fail_on"])
    if "no_exec" in given:
        given["execute"] = not given.pop("no_exec")
    colored, width = terminal(color) if not given.get("output_file") else (color == "always", 0)
    given |= {"color": colored, "width": width, **overrides}
    return load_config(common_folder(paths), given, file=file, isolated=isolated)


def common_folder(paths: Iterable[str]) -> str:
    """The folder that holds all of ``paths``: where the search for a configuration begins."""
    absolute = [os.path.abspath(path) for path in paths]
    try:
        common = os.path.commonpath(absolute)
    except ValueError:  # on different drives
        return os.getcwd()
    return common if os.path.isdir(common) else os.path.dirname(common)


def terminal(choice: str) -> tuple[bool, int]:
    """(colour?, width in cells or 0) of stdout."""
    is_terminal = sys.stdout.isatty()
    wanted = {"always": True, "never": False}.get(choice)
    if wanted is None:
        wanted = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted, shutil.get_terminal_size().columns if is_terminal else 0


def deliver(done: Run, config: Config) -> int:
    """Report a finished run, and say what went wrong; only the report goes to stdout."""
    from initcheck.exit_codes import exit_code
    from initcheck.report import closing, render

    report = render(done.result, done.sources, config)
    written = write(report, config)
    for file in done.result.files:
        if config.debug and file.debug:
            print(file.debug, file=sys.stderr)
    if not config.quiet:
        sys.stderr.write(closing(done.result, config))
    for error in done.result.errors:
        print(f"initcheck: error: {error if config.debug else error.splitlines()[0]}", file=sys.stderr)
    if done.result.interrupted:
        print("initcheck: interrupted; this is what had been done", file=sys.stderr)
    return exit_code(done.result, config) if written else FAILURE


def write(text: str, config: Config) -> bool:
    """Hand the report over; False if it could not be written."""
    if not config.output_file:
        put(text)
        return True
    try:
        Path(config.output_file).write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"initcheck: error: {config.output_file}: cannot be written: {error.strerror or error}", file=sys.stderr)
        return False
    return True


def put(text: str) -> None:
    """To stdout, which may lack some characters, or have lost its reader (``| head``)."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
