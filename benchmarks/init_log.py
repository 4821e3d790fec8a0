"""How often the init log's distribution of a parameter agrees with a seeded real build of the same model.

``python benchmarks/init_log.py [PATTERN...]`` prints a table over the models of ``zoo.py`` (default: 20 of them). A
parameter agrees if mean and std are within five standard errors of the sample (std at least 1 %), or 1e-6. Weights are
drawn for real once for each model, so a few hundred MB are needed.
"""

from __future__ import annotations

import math
import sys
from fnmatch import fnmatchcase

import torch
import zoo
from torch import nn

from initcheck.tracing.build import build
from initcheck.tracing.ladder import is_lazy_model
from initcheck.tracing.live import measured
from initcheck.tracing.trace import ParameterRecord

PATTERNS = (
    "*resnet18", "*vgg11", "*densenet121", "*mobilenet_v2", "*efficientnet_b0", "*convnext_tiny", "*swin_t",
    "*vit_tiny*", "*nfnet*", "*mixer*", "*deit_tiny*", "*regnetx_002", "*gpt2*", "*bert*", "*llama*", "*t5*",
    "*lstm*", "*gru*", "*mlp*", "*transformer*",
)  # fmt: skip


def agrees(record: ParameterRecord, real: torch.Tensor) -> bool | None:
    """None if the log does not know the distribution."""
    if not record.distribution.known:
        return None
    value = measured(real)
    count, std = real.numel(), max(record.distribution.std, value.std)
    mean_error = 5 * std / math.sqrt(count) + 1e-6
    std_error = max(0.01, 5 / math.sqrt(2 * count)) * std * (3 if count < 16 else 1) + 1e-6
    return abs(value.mean - record.distribution.mean) <= mean_error and (
        abs(value.std - record.distribution.std) <= std_error
    )


def main(patterns: list[str]) -> None:
    """Print the table."""
    total = {True: 0, False: 0, None: 0}
    print(f"{'model':44} {'parameters':>10} {'agree':>6} {'differ':>6} {'unknown':>7}  differing")
    for model in chosen(patterns or list(PATTERNS)):
        built = build(model.build)
        if is_lazy_model(built.model):
            continue
        torch.manual_seed(1)
        real: nn.Module = model.build()
        values = dict(real.named_parameters())
        verdicts = {name: agrees(record, values[name]) for name, record in built.log.parameters(built.model).items()}
        counts = {verdict: sum(v is verdict for v in verdicts.values()) for verdict in total}
        for verdict, count in counts.items():
            total[verdict] += count
        differing = [name for name, verdict in verdicts.items() if verdict is False]
        print(
            f"{model.name:44} {len(verdicts):10} {counts[True]:6} {counts[False]:6} {counts[None]:7}  "
            f"{', '.join(differing[:3])}",
            flush=True,
        )
    every = sum(total.values())
    print(f"{'all':44} {every:10} {total[True]:6} {total[False]:6} {total[None]:7}  {total[True] / every:.2%} agree")


def chosen(patterns: list[str]) -> list[zoo.Model]:
    """The first model of the zoo that matches each pattern."""
    found: dict[str, zoo.Model] = {}
    every = zoo.models()
    for pattern in patterns:
        model = next((m for m in every if fnmatchcase(m.name.lower(), pattern.lower()) and m.name not in found), None)
        if model is None:
            print(f"no model matches {pattern}", file=sys.stderr)
        else:
            found[model.name] = model
    return list(found.values())


if __name__ == "__main__":
    main(sys.argv[1:])
