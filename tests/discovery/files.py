"""A file on disk, its module, its candidates and their inputs: what every test of discovery starts from."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

from initcheck.config import Config
from initcheck.discovery.candidate import Candidate
from initcheck.discovery.candidates import candidates
from initcheck.discovery.inputs import Inputs, find_inputs
from initcheck.discovery.loader import load
from initcheck.source.file import SourceFile
from initcheck.tracing.build import build
from initcheck.tracing.ladder import Trial


def write(folder: Path, name: str, *parts: str) -> Path:
    """A file of these parts, each with an indentation of its own."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(textwrap.dedent, parts)))
    return path


def loaded(path: Path) -> tuple[SourceFile, ModuleType]:
    source = SourceFile.read(path)
    return source, load(source)


def found(path: Path, config: Config | None = None) -> dict[str, Candidate]:
    source, module = loaded(path)
    return {candidate.name: candidate for candidate in candidates(source, module, config or Config())}


@dataclass
class Run:
    """A model, how it was built and what it accepts."""

    model: nn.Module
    candidate: Candidate
    inputs: Inputs


def run(path: Path, name: str | None = None, config: Config | None = None) -> Run:
    every = found(path, config)
    candidate = every[name] if name is not None else next(iter(every.values()))
    model = build(candidate.construct).model
    return Run(model, candidate, find_inputs(model, candidate, Trial(model)))
