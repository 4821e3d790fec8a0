"""What tracing hands on: who wrote each parameter, and one forward pass as a torch.fx graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.fx

from initcheck.findings import Location


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a tensor's elements look like.

    ``kind``: normal, uniform, truncated_normal, constant, orthogonal, identity, sparse, mixture (several writes to
    parts, concatenation), measured (statistics of real values), uninitialised, unknown. ``mean``/``std`` are per
    element; for kind ``unknown`` and ``uninitialised`` they are nan. ``common``: for a matrix of known values that is
    not random (a table of sines), the part of its variance that lies between the means of its columns. ``zero_sum``:
    each unit's incoming weights sum to zero.
    """

    kind: str
    mean: float
    std: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    common: float = 0.0
    zero_sum: bool = False

    @property
    def second_moment(self) -> float:
        """E[w²] = mean² + std²."""
        return self.mean**2 + self.std**2

    @property
    def known(self) -> bool:
        """Whether mean and std can be relied on."""
        return self.kind not in ("unknown", "uninitialised")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of user code (outside torch and initcheck) at the time of a write or a call."""

    location: Location
    function: str


@dataclass(frozen=True, slots=True)
class Write:
    """One write to a parameter.

    ``function``: as the field names it, ``kaiming_uniform_`` (a ``torch.nn.init`` call, one write, however many ops
    it runs), else the tensor method, ``normal_``, ``copy_``, ``fill_``. ``arguments``: bound by name, defaults
    included, scalars and strings only. ``origin``: ``default`` (inside torch's own module constructor or
    ``reset_parameters``), ``user``, or ``library`` (a third-party package called by the user's file). ``stack``: user
    frames, innermost first. ``share``: part of the parameter's elements written, 0 to 1. ``carries``: so many of the
    writes right before a copy are those of its source.
    """

    function: str
    arguments: Mapping[str, Any]
    distribution: Distribution
    origin: str
    stack: tuple[Frame, ...] = ()
    share: float = 1.0
    carries: int = 0


@dataclass(frozen=True, slots=True)
class ParameterRecord:
    """A parameter, its history and what it ended up as.

    ``writes`` is empty for a live model (nobody watched). ``equal_rows``: every unit's incoming weights are the same
    vector (rows of dim 0 identical), known from constants or real values. ``clone_of``: name of the parameter whose
    values it starts with (deepcopy) and that nobody re-drew since.
    """

    name: str
    module: str
    module_type: str
    attribute: str
    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool
    distribution: Distribution
    writes: tuple[Write, ...] = ()
    aliases: tuple[str, ...] = ()
    equal_rows: bool = False
    equal_columns: bool = False
    clone_of: str = ""
    location: Location | None = None
    """Where the user's code made the layer (``nn.Linear(...)``), or the class that holds it."""

    @property
    def modules(self) -> tuple[str, ...]:
        """The module that holds it, and those that hold it by another of its names (tied weights)."""
        return self.module, *(alias.rpartition(".")[0] for alias in self.aliases)


@dataclass(frozen=True, slots=True)
class ModuleRecord:
    """One submodule: qualified type name, where its class is defined (None: in torch or C), where it was built."""

    path: str
    type_name: str
    class_location: Location | None = None
    built_at: tuple[Frame, ...] = ()


@dataclass(slots=True)
class Trace:
    """A model as the other rooms see it.

    ``graph``: placeholders (inputs), ``get_attr`` (parameters, buffers, constants), ``call_function`` (one per
    recorded op), ``output`` (the *primary* output node first; see ``tracing.outputs``). ``node.meta`` has:
    ``op`` (normalised name, e.g. ``linear``, ``conv2d``, ``add``, ``relu``; in-place variants carry the plain name and
    ``inplace`` True), ``val`` (a fake tensor, or a tuple of them), ``module`` (path of the innermost module under
    way), ``modules`` (paths from the root to it), ``stack`` (user frames, innermost first); on ``get_attr`` nodes
    ``parameter`` (its name) or ``buffer`` or ``constant`` (the real tensor, if small); ``value`` holds a real tensor
    wherever the result depends on constants only (masks, position ids); ``example`` the integers or booleans that
    came of this call's integer inputs, as one instance of what they may be; ``output_of`` the modules whose primary
    output this is.
    """

    model: str
    graph: torch.fx.Graph
    parameters: dict[str, ParameterRecord]
    modules: dict[str, ModuleRecord]
    buffers: dict[str, Distribution] = field(default_factory=dict)
    rung: str = "recorder"
    mode: str = "train"
    inputs: str = ""
    notes: list[str] = field(default_factory=list)
    constant_values: dict[str, torch.Tensor] = field(default_factory=dict)
    weights_are_data: bool = False
    """True for a live model: distributions are measured from real values, no writes are known."""
    inputs_given: bool = False
    """The example inputs (``example`` in the placeholders' meta) are data: their statistics count, not only shapes."""
