"""Lines that a rule about fans or signs explains, so that the rules about the signal need not name them as well.

Such a rule offers ``wrong_factors(context)``: the place of each call that it finds, with the factor by which the std of
the worst layer is off. A call that is off in the direction of the verdict is explained: the rule speaks, with the
verdict's severity.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import TYPE_CHECKING

from initcheck.findings import Severity

if TYPE_CHECKING:
    from initcheck.findings import Location
    from initcheck.rules.base import ModelContext

_EXPLAIN = ("ic301_wrong_fan_axis", "ic302_transposed_conv_fan", "ic303_grouped_fan_out", "ic210_siren_scale")


def explained_places(
    context: ModelContext, blamed: Collection[Location], default: Collection[Location], kind: str
) -> frozenset[Location]:
    """Those of the blamed places that another rule explains.

    Args:
        context: the model.
        blamed: places of the lines to blame.
        default: those of them where torch's default stands.
        kind: ``vanishing`` or ``exploding``.
    """
    found: set[Location] = set()
    for name in _EXPLAIN if blamed else ():
        factors = importlib.import_module(f"initcheck.rules.{name}").wrong_factors(context)
        found |= {
            where for where, factor in factors.items() if where in blamed and (factor < 1) is (kind == "vanishing")
        }
    if blamed and kind == "vanishing":
        from initcheck.rules.ic603_negative_or_large_bias import cutting_places

        found |= cutting_places(context)
    if blamed and kind == "exploding":
        from initcheck.rules.ic502_recurrent_gain import places

        found |= places(context)
    if default and init_is_lost(context, at_least=Severity.ERROR):
        found |= set(default)
    return frozenset(found)


_LOSE = ("ic104_init_recomputed", "ic106_init_before_layers", "ic111_init_function_never_called", "ic113_init_of_copy")


def init_is_lost(context: ModelContext, *, at_least: Severity = Severity.WARNING) -> bool:
    """Whether another rule says that an init of the file does not arrive, so that torch's default stands."""
    if context.source is None:
        return False
    rules = [importlib.import_module(f"initcheck.rules.{name}") for name in _LOSE]
    built = [rule for rule in rules if hasattr(rule, "check_model")]
    return any(found.severity >= at_least for rule in rules for found in rule.check_source(context.source)) or any(
        found.severity >= at_least for rule in built for found in rule.check_model(context)
    )
