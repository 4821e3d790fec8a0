"""Options that commands share: help in sections, values checked where they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from initcheck.config import FAIL_ON, FORMATS, IMPORT_MODES, MODES, PRECISIONS, ModelSpec
from initcheck.config_file import (
    parse_codes,
    parse_data,
    parse_device,
    parse_inputs,
    parse_patterns,
    parse_target,
)
from initcheck.sizes import parse_size

COLORS = ("auto", "always", "never")
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_GENERAL = "General"
_HELP_COLUMN = 26


class Option(click.Option):
    """An option that knows under which heading ``--help`` lists it."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose options are listed in sections; ``tail``: further sections after them."""

    def __init__(self, *args: Any, tail: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tail = tail

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", _GENERAL), []).append(record)
        general = sections.pop(_GENERAL, [])
        for title, records in (*sections.items(), (_GENERAL, general)):
            with formatter.section(title):
                formatter.write_dl(records, col_max=_HELP_COLUMN)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections of ``tail``."""
        for title, records in self.tail:
            with formatter.section(title):
                formatter.write_dl(records, col_max=_HELP_COLUMN)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Callback = Callable[[click.Context, click.Parameter, Any], Any]


def checked(parse: Callable[[Any], Any]) -> Callback:
    """A callback that turns a ValueError of ``parse`` into a usage error; an option that was not given stays None."""

    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None or value == ():
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, parameter) from None

    return callback


def parts(values: Iterable[str]) -> list[str]:
    """The items of comma-separated lists."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def code_list(values: Sequence[str]) -> tuple[str, ...]:
    """The codes of a repeatable, comma-separated option; ValueError if there are none."""
    codes = parse_codes(parts(values))
    if not codes:
        raise ValueError("expected codes such as IC2,IC801")
    return codes


def positive(value: float) -> float:
    """The value, if it is above zero and finite."""
    if not 0 < value < float("inf"):
        raise ValueError(f"expected a number above 0, got {value:g}")
    return value


def target(text: str) -> ModelSpec:
    """The model that ``net.py:Net`` names."""
    path, expression = parse_target(text, Path.cwd())
    return ModelSpec(path, expression)


def option(*names: str, section: str, **kwargs: Any) -> Decorator:
    """An option, listed under ``section``."""
    return click.option(*names, cls=Option, section=section, **kwargs)


def flag(*names: str, section: str, help: str) -> Decorator:
    """A switch that is None if not given, so that the configuration file can speak."""
    return option(*names, section=section, help=help, is_flag=True, default=None)


RULES: tuple[Decorator, ...] = (
    option(
        "--select",
        section="Rules",
        multiple=True,
        metavar="CODES",
        callback=checked(code_list),
        help="Report only these: codes or prefixes, comma-separated (IC2,IC801). Replaces the file's select, ignore.",
    ),
    option(
        "--ignore",
        section="Rules",
        multiple=True,
        metavar="CODES",
        callback=checked(code_list),
        help="Do not report these, nor what the file ignores. The longer prefix wins against --select.",
    ),
    option(
        "--fail-on",
        section="Rules",
        type=click.Choice(FAIL_ON),
        callback=checked(lambda text: text),
        help="The least severity that makes the exit code 1.  [default: warning]",
    ),
    flag("--show-info", section="Rules", help="Print findings of severity info, too."),
)
FILES: tuple[Decorator, ...] = (
    option(
        "--exclude",
        section="Files",
        multiple=True,
        metavar="PATTERNS",
        callback=checked(lambda values: (parse_patterns(parts(values), Path.cwd()),)),
        help="Leave these out when searching folders; patterns as in .gitignore. Adds to the file's.",
    ),
    flag("--force-exclude", section="Files", help="Leave them out even if they are named as PATH (for pre-commit)."),
)
CONFIGURATION: tuple[Decorator, ...] = (
    option(
        "--config",
        section="Files",
        metavar="FILE",
        help="Use this configuration; else the nearest initcheck.toml, or pyproject.toml with [tool.initcheck].",
    ),
    flag("--isolated", section="Files", help="Use no configuration file."),
)
MODELS: tuple[Decorator, ...] = (
    option(
        "--model",
        section="Models",
        multiple=True,
        metavar="FILE.py:NAME",
        callback=checked(lambda values: tuple(target(value) for value in values)),
        help="Check only this model: a class, a function that makes one, or a call, 'net.py:Net(64)'. Repeatable.",
    ),
    option(
        "--input",
        "inputs",
        section="Models",
        multiple=True,
        metavar="DTYPE[SIZES]",
        callback=checked(parse_inputs),
        help="What the model is called with: 'float32[2,3,32,32]', 'int64[2,16]<50257', 'mask=bool[2,16]'. Repeatable.",
    ),
)
NO_EXECUTION: tuple[Decorator, ...] = (
    flag(
        "--no-exec",
        section="Models",
        help="Execute nothing: only the rules that read the source.",
    ),
)
ANALYSIS: tuple[Decorator, ...] = (
    option(
        "--import",
        "import_mode",
        section="Models",
        type=click.Choice(IMPORT_MODES),
        help="Load a file for its definitions, or execute all of it as Python would.  [default: definitions]",
    ),
    option("--mode", section="Models", type=click.Choice(MODES), help="Analyse in this mode.  [default: train]"),
    option(
        "--timeout",
        section="Models",
        metavar="SECONDS",
        type=float,
        callback=checked(positive),
        help="Give up on a model after this time.  [default: 60]",
    ),
    option(
        "--memory-limit",
        section="Models",
        metavar="SIZE",
        callback=checked(parse_size),
        help="Give up on a model that takes more memory.  [default: 8 GiB]",
    ),
)
JOBS: tuple[Decorator, ...] = (
    option(
        "-j",
        "--jobs",
        section="Models",
        type=int,
        metavar="N",
        callback=checked(positive),
        help="Files analysed at a time.",
    ),
)
FIXING: tuple[Decorator, ...] = (
    flag("--fix", section="Fixing", help="Write the fixes that a new analysis confirms. Most change numerics."),
    flag("--safe-fixes-only", section="Fixing", help="With --fix or --diff: only those that cannot change a result."),
    flag("--diff", section="Fixing", help="Print the fixes as a diff; write nothing."),
)
MEASURING: tuple[Decorator, ...] = (
    flag(
        "--measure",
        section="Measuring",
        help="Run a real forward and backward pass, as given and with the suggested init; predicted beside measured.",
    ),
    option(
        "--device",
        section="Measuring",
        metavar="DEVICE",
        callback=checked(parse_device),
        help="cpu, cuda, cuda:N or mps.  [default: cpu]",
    ),
    option(
        "--seeds",
        section="Measuring",
        type=int,
        metavar="N",
        callback=checked(positive),
        help="Average over N.  [default: 1]",
    ),
    option(
        "--data",
        section="Measuring",
        metavar="FILE",
        callback=checked(lambda text: parse_data(text, Path.cwd())),
        help="Real batches: 'batches.pt' or 'loaders.py:name' (an iterable, or a function returning one).",
    ),
    option(
        "--precision",
        section="Measuring",
        type=click.Choice(PRECISIONS),
        help="bf16 or fp16: also under autocast, with what underflows and overflows.  [default: fp32]",
    ),
    option(
        "--train-steps",
        section="Measuring",
        type=int,
        metavar="N",
        callback=checked(positive),
        help="Also train N steps from the init as given and from the suggested one: does it learn?",
    ),
)
OUTPUT: tuple[Decorator, ...] = (
    option("--output-format", section="Output", type=click.Choice(FORMATS), help="Form of report.  [default: text]"),
    option("--output-file", section="Output", metavar="FILE", help="Write the report to FILE instead of stdout."),
    flag("--statistics", section="Output", help="Add how often each code was found."),
    flag("-q", "--quiet", section="Output", help="Only findings and errors: no models, summary or progress."),
    option("--color", section="Output", type=click.Choice(COLORS), default="auto", help="[default: auto]"),
    flag("--debug", section="Output", help="Show tracebacks, of initcheck's and of the analysed code, on stderr."),
)


def options(*groups: Sequence[Decorator]) -> Decorator:
    """All options of these groups, in their order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed([decorator for group in groups for decorator in group]):
            function = decorator(function)
        return function

    return decorate
