"""``initcheck PATH...``, the command that needs no name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from initcheck import __version__
from initcheck.commands import options as group
from initcheck.commands.options import CONTEXT, SectionedCommand, target
from initcheck.commands.running import deliver, settings
from initcheck.config import Config, ModelSpec
from initcheck.targets import LibraryTarget, module_target

_HELP_TAIL = (
    (
        "Commands",
        [
            ("initcheck trace TARGET", "Show who wrote each parameter, from which line."),
            ("initcheck capture -- COMMAND", "Run a training command up to its first forward; check that model."),
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


@click.command(
    cls=SectionedCommand,
    context_settings=CONTEXT,
    tail=_HELP_TAIL,
    help="""Check the weight initialisation of PyTorch models.

    TARGET is a file, a notebook, a folder (default: the current one), or a model by its name: 'net.py:Net',
    'package.module:factory', 'timm:resnet50', 'hf:gpt2', 'hf:llama?num_hidden_layers=4'.
    """,
)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@group.options(
    group.RULES,
    group.FILES,
    group.CONFIGURATION,
    group.MODELS,
    group.NO_EXECUTION,
    group.ANALYSIS,
    group.JOBS,
    group.FIXING,
    group.MEASURING,
    group.OUTPUT,
)
@click.version_option(__version__, prog_name="initcheck", message="%(prog)s %(version)s")
def check(targets: tuple[str, ...], model: tuple[ModelSpec, ...] | None, inputs: Any, **options: Any) -> int:
    """``initcheck TARGET...``."""
    from initcheck import engine
    from initcheck.progress import Progress

    chosen = choose(targets, model or (), inputs)
    config = settings(chosen.paths, options, **chosen.overrides)
    require_consistent(config)
    with Progress(enabled=not config.quiet) as tell:
        done = engine.run(chosen.paths, config, tell)
    return deliver(done, config)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a command is to look at. ``models``: nothing else in their files, if there are any."""

    paths: tuple[str, ...]
    models: tuple[ModelSpec, ...]
    only_listed: bool

    @property
    def overrides(self) -> dict[str, Any]:
        """For the configuration."""
        only = {"only_listed_models": True} if self.only_listed else {}
        return {"models": self.models, **only} if self.models else {}


def choose(targets: Sequence[str], given: Sequence[ModelSpec], inputs: tuple[Any, Any] | None) -> Choice:
    """What targets and ``--model`` ask for.

    Raises:
        click.UsageError: if they contradict each other, or a target is malformed.
    """
    paths: list[str] = []
    named = list(given)
    libraries: list[ModelSpec] = []
    for text in targets:
        try:
            spec = _named(text)
            if spec is None and LibraryTarget.parse(text) is not None:
                libraries.append(ModelSpec(text, text))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if spec is None:
            paths.append(text)
        else:
            named.append(spec)
    files = [path for path in paths if path not in {library.path for library in libraries}]
    if files and len(named) > len(given):
        raise click.UsageError(f"{files[0]!r} is a path and {targets[-1]!r} a model: check them in two runs")
    models = tuple(named) if inputs is None else _with_inputs([*named, *libraries], *inputs)
    if not paths:
        paths = list(dict.fromkeys(_shown(model.path) for model in named))
    elif not files:
        paths += [path for path in dict.fromkeys(_shown(model.path) for model in named) if path not in paths]
    return Choice(tuple(paths) or (".",), models, bool(named))


def _named(text: str) -> ModelSpec | None:
    """The model of ``net.py:Net`` or ``package.module:factory``; None for a path or a library's model."""
    if os.path.exists(text) or LibraryTarget.parse(text) is not None:
        return None
    if ".py:" in text:
        return target(text)
    found = module_target(text, Path.cwd())
    return None if found is None else target(found)


def _shown(path: str) -> str:
    """Relative to the current folder where that is no detour."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _with_inputs(models: Sequence[ModelSpec], positional: Any, keyword: Any) -> tuple[ModelSpec, ...]:
    if len(models) != 1:
        raise click.UsageError("--input needs exactly one model (for more, list them in the configuration file)")
    return (replace(models[0], inputs=positional, keyword_inputs=keyword),)


def require_consistent(config: Config) -> None:
    """Refuse what cannot be had together."""
    if config.measure and not config.execute:
        raise click.UsageError("--measure runs the model, and --no-exec forbids that")
