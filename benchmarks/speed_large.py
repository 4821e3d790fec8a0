"""One very large model, from its written-out configuration to a report, in a process of its own (see speed.py).

    python benchmarks/speed_large.py llama-3-70b|mixtral-8x7b [TOKENS]

Prints one JSON line: seconds (wall, after the imports), CPU seconds, peak resident memory, what was found.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers
import zoo
from torch import nn

from initcheck.audit import audit
from initcheck.findings import Location
from initcheck.tracing.build import build
from initcheck.tracing.ladder import trace

TOKENS = 512


def llama_3_70b() -> nn.Module:
    """Grattafiori et al. 2024, table 3."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
            num_key_value_heads=8, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=5e5, use_cache=False,
        )
    )  # fmt: skip


def mixtral_8x7b() -> nn.Module:
    """Jiang et al. 2024, table 1."""
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
            num_key_value_heads=8, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=32768,
            rms_norm_eps=1e-5, rope_theta=1e6, use_cache=False,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {"llama-3-70b": llama_3_70b, "mixtral-8x7b": mixtral_8x7b}


def main() -> None:
    name, tokens = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else TOKENS
    warnings.filterwarnings("ignore")
    zoo.declare_missing_ops()
    assert transformers.LlamaForCausalLM
    assert transformers.MixtralForCausalLM  # imported here, not in the constructor
    started, cpu = time.perf_counter(), time.process_time()
    steps: dict[str, float] = {}

    def step(what: str) -> None:
        steps[what] = round(time.process_time() - cpu - sum(steps.values()), 2)

    built = build(MODELS[name])
    step("build")
    ids = torch.randint(0, 32000, (1, tokens))
    traced = trace(built.model, (), {"input_ids": ids}, log=built.log)
    step("trace")
    report = audit(traced, Location(name, 1)).report
    step("signal and rules")
    row: dict[str, Any] = {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
        "steps": steps,
        "parameters": report.parameter_elements,
        "nodes": len(traced.graph.nodes),
        "layers": len(report.layers),
        "coverage": report.coverage,
        "unknown_ops": dict(report.unknown_ops),
        "rung": report.rung,
        "gradients": sum(row.grad_std is not None for row in report.layers),
        "findings": [f.code for f in report.findings],
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
