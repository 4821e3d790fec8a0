"""The command line. ``main`` returns the exit code; torch, rich and libcst are imported only where a run needs them."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from initcheck import __version__
from initcheck.config import FAIL_ON, FORMATS, MODES, Config, ConfigError, ModelSpec
from initcheck.config_file import (
    load_config,
    parse_codes,
    parse_device,
    parse_fail_on,
    parse_inputs,
    parse_patterns,
    parse_target,
)
from initcheck.exit_codes import FAILURE, INTERRUPTED
from initcheck.sizes import parse_size

_COLORS = ("auto", "always", "never")
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


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


# --- options: help in sections, values checked where they are read ----------------------------------------------------


_GENERAL = "General"
_HELP_COLUMN = 26


class _Option(click.Option):
    """An option that knows under which heading ``--help`` lists it."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class _SectionedCommand(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
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
        for title, records in _HELP_TAIL:
            with formatter.section(title):
                formatter.write_dl(records, col_max=_HELP_COLUMN)


_HELP_TAIL = (
    (
        "Commands",
        [
            ("initcheck explain CODE", "Print the page of a rule: what, why, theory, a bad and a good example."),
            ("initcheck rules", "List all rules."),
            ("initcheck check PATH...", "The same as initcheck PATH...; also for a path that is called like a command "
             "('initcheck check rules', or 'initcheck ./rules')."),
        ],
    ),
    (
        "Exit code",
        [
            ("0", "no finding at or above --fail-on"),
            ("1", "such findings"),
            ("2", "initcheck could not do its job: no such file, bad option or configuration, a defect"),
        ],
    ),
)  # fmt: skip

Callback = Callable[[click.Context, click.Parameter, Any], Any]


def _checked(parse: Callable[[Any], Any]) -> Callback:
    """A callback that turns a ValueError of ``parse`` into a usage error; an option that was not given stays None."""

    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None or value == ():
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, parameter) from None

    return callback


def _parts(values: Iterable[str]) -> list[str]:
    """The items of comma-separated lists."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _code_list(values: Sequence[str]) -> tuple[str, ...]:
    codes = parse_codes(_parts(values))
    if not codes:
        raise ValueError("expected codes such as IC2,IC801")
    return codes


def _positive(value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"expected a number above 0, got {value:g}")
    return value


def _target(text: str) -> ModelSpec:
    path, expression = parse_target(text, Path.cwd())
    return ModelSpec(path, expression)


def _option(*names: str, section: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=_Option, section=section, **kwargs)


def _flag(*names: str, section: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A switch that is None if not given, so that the configuration file can speak."""
    return _option(*names, section=section, help=help, is_flag=True, default=None)


@click.command(
    cls=_SectionedCommand,
    context_settings=_CONTEXT,
    help="Check the weight initialisation of the PyTorch models in files and folders (default: the current folder).",
)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@_option(
    "--select",
    section="Rules",
    multiple=True,
    metavar="CODES",
    callback=_checked(_code_list),
    help="Report only these: codes or prefixes, comma-separated (IC2,IC801). Replaces the file's select and ignore.",
)
@_option(
    "--ignore",
    section="Rules",
    multiple=True,
    metavar="CODES",
    callback=_checked(_code_list),
    help="Do not report these, nor what the file ignores. The longer prefix wins against --select.",
)
@_option(
    "--fail-on",
    section="Rules",
    type=click.Choice(FAIL_ON),
    callback=_checked(lambda text: text),
    help="The least severity that makes the exit code 1.  [default: warning]",
)
@_flag("--show-info", section="Rules", help="Print findings of severity info, too.")
@_option(
    "--exclude",
    section="Files",
    multiple=True,
    metavar="PATTERNS",
    callback=_checked(lambda values: (parse_patterns(_parts(values), Path.cwd()),)),
    help="Leave these out when searching folders; patterns as in .gitignore. Adds to the file's.",
)
@_flag("--force-exclude", section="Files", help="Leave them out even if they are named as PATH (for pre-commit).")
@_option(
    "--config",
    section="Files",
    metavar="FILE",
    help="Use this configuration; else the nearest initcheck.toml, or pyproject.toml with [tool.initcheck].",
)
@_flag("--isolated", section="Files", help="Use no configuration file.")
@_option(
    "--model",
    section="Models",
    multiple=True,
    metavar="FILE.py:NAME",
    callback=_checked(lambda values: tuple(_target(value) for value in values)),
    help="Check only this model: a class, a function that returns one, or a call, 'net.py:Net(width=64)'. Repeatable.",
)
@_option(
    "--input",
    "inputs",
    section="Models",
    multiple=True,
    metavar="DTYPE[SIZES]",
    callback=_checked(parse_inputs),
    help="What --model is called with: 'float32[2,3,224,224]', 'int64[2,16]<50257', 'mask=bool[2,16]'. Repeatable.",
)
@_option("--mode", section="Models", type=click.Choice(MODES), help="Analyse in this mode.  [default: train]")
@_option(
    "--timeout",
    section="Models",
    metavar="SECONDS",
    type=float,
    callback=_checked(_positive),
    help="Give up on a model after this time.  [default: 60]",
)
@_option(
    "--memory-limit",
    section="Models",
    metavar="SIZE",
    callback=_checked(parse_size),
    help="Give up on a model that takes more memory.  [default: 8 GiB]",
)
@_option(
    "-j",
    "--jobs",
    section="Models",
    type=int,
    metavar="N",
    callback=_checked(_positive),
    help="Files analysed at a time.",
)
@_flag("--fix", section="Fixing", help="Write the fixes that a new analysis confirms. Most change numerics.")
@_flag("--safe-fixes-only", section="Fixing", help="With --fix or --diff: only those that cannot change a result.")
@_flag("--diff", section="Fixing", help="Print the fixes as a diff; write nothing.")
@_flag(
    "--measure",
    section="Measuring",
    help="Run a real forward and backward pass, as given and with the suggested init; predicted beside measured.",
)
@_option(
    "--device",
    section="Measuring",
    metavar="DEVICE",
    callback=_checked(parse_device),
    help="cpu, cuda, cuda:N or mps.  [default: cpu]",
)
@_option(
    "--seeds",
    section="Measuring",
    type=int,
    metavar="N",
    callback=_checked(_positive),
    help="Average over N.  [default: 1]",
)
@_option("--output-format", section="Output", type=click.Choice(FORMATS), help="Form of the report.  [default: text]")
@_option("--output-file", section="Output", metavar="FILE", help="Write the report to FILE instead of stdout.")
@_flag("--statistics", section="Output", help="Add how often each code was found.")
@_flag("-q", "--quiet", section="Output", help="Only findings and errors: no models, summary or progress.")
@_option("--color", section="Output", type=click.Choice(_COLORS), default="auto", help="[default: auto]")
@_flag("--debug", section="Output", help="Show tracebacks, of initcheck's and of the analysed code, on stderr.")
@click.version_option(__version__, prog_name="initcheck", message="%(prog)s %(version)s")
def check(
    paths: tuple[str, ...],
    config: str | None,
    isolated: bool | None,
    color: str,
    inputs: tuple[Any, Any] | None,
    **options: Any,
) -> int:
    """``initcheck PATH...``."""
    if config is not None and isolated:
        raise click.UsageError("--config and --isolated exclude each other")
    overrides = {name: value for name, value in options.items() if value is not None}
    if "fail_on" in overrides:
        overrides["fail_on"] = parse_fail_on(overrides["fail_on"])
    models = _models(overrides.pop("model", ()), inputs)
    if models:
        overrides |= {"models": models, "only_listed_models": True}
        paths = paths or tuple(dict.fromkeys(os.path.relpath(model.path) for model in models))
    paths = paths or (".",)
    colored, width = _terminal(color) if not overrides.get("output_file") else (color == "always", 0)
    settings = load_config(
        _common_folder(paths),
        {**overrides, "color": colored, "width": width},
        file=config,
        isolated=bool(isolated),
    )
    return _run(paths, settings)


def _models(models: Sequence[ModelSpec], inputs: tuple[Any, Any] | None) -> tuple[ModelSpec, ...]:
    if inputs is None:
        return tuple(models)
    if len(models) != 1:
        raise click.UsageError("--input needs exactly one --model (for more, list them in the configuration file)")
    (model,) = models
    return (ModelSpec(model.path, model.expression, inputs=inputs[0], keyword_inputs=inputs[1]),)


def _common_folder(paths: Iterable[str]) -> str:
    """The folder that holds all of ``paths``: where the search for a configuration begins."""
    absolute = [os.path.abspath(path) for path in paths]
    try:
        common = os.path.commonpath(absolute)
    except ValueError:  # on different drives
        return os.getcwd()
    return common if os.path.isdir(common) else os.path.dirname(common)


def _terminal(choice: str) -> tuple[bool, int]:
    """(colour?, width in cells or 0) of stdout."""
    is_terminal = sys.stdout.isatty()
    wanted = {"always": True, "never": False}.get(choice)
    if wanted is None:
        wanted = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted, shutil.get_terminal_size().columns if is_terminal else 0


# --- the run ----------------------------------------------------------------------------------------------------------


def _run(paths: Sequence[str], config: Config) -> int:
    """Check, report, and say what went wrong; only the report goes to stdout."""
    from initcheck import engine
    from initcheck.exit_codes import exit_code
    from initcheck.progress import Progress
    from initcheck.report import closing, render

    with Progress(enabled=not config.quiet) as tell:
        run = engine.run(paths, config, tell)
    report = render(run.result, run.sources, config)
    written = _write(report, config)
    for file in run.result.files:
        if config.debug and file.debug:
            print(file.debug, file=sys.stderr)
    if not config.quiet:
        sys.stderr.write(closing(run.result, config))
    for error in run.result.errors:
        print(f"initcheck: error: {error if config.debug else error.splitlines()[0]}", file=sys.stderr)
    return exit_code(run.result, config) if written else FAILURE


def _write(text: str, config: Config) -> bool:
    """Hand the report over; False if it could not be written."""
    if not config.output_file:
        _print(text)
        return True
    try:
        Path(config.output_file).write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"initcheck: error: {config.output_file}: cannot be written: {error.strerror or error}", file=sys.stderr)
        return False
    return True


def _print(text: str) -> None:
    """To stdout, which may lack some characters, or have lost its reader (``| head``)."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end


# --- the catalogue ----------------------------------------------------------------------------------------------------


@click.command(context_settings=_CONTEXT, help="Print the page of one or more rules, by code (IC201) or name.")
@click.argument("codes", nargs=-1, required=True, metavar="CODE...")
@click.option("--color", type=click.Choice(_COLORS), default="auto", help="[default: auto]")
def explain(codes: tuple[str, ...], color: str) -> int:
    """``initcheck explain CODE``: laid out on a terminal, plain Markdown elsewhere."""
    from initcheck.explain import find_page, page_markdown, page_rendered

    try:
        pages = [find_page(code) for code in codes]
    except LookupError as error:
        raise click.UsageError(str(error)) from None
    colored, width = _terminal(color)
    for page in pages:
        _print(page_rendered(page, width) if colored else page_markdown(page))
    return 0


@click.command(
    context_settings=_CONTEXT,
    help="List all rules. (To check a folder that is called rules: initcheck ./rules)",
)
@click.option(
    "--output-format", type=click.Choice(["text", "markdown", "json"]), default="text", help="[default: text]"
)
def rules(output_format: str) -> int:
    """``initcheck rules``."""
    from initcheck.catalogue import rule_pages
    from initcheck.explain import RULE_FORMATS

    _print(RULE_FORMATS[output_format](rule_pages().values()))
    return 0


COMMANDS: Mapping[str, click.Command] = {"check": check, "explain": explain, "rules": rules}
