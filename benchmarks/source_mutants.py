"""Mistakes written into real source files, found or missed by the command line: the whole way of a file.

The files: this repository's examples, and public projects where a folder with checkouts (``owner+repo``) is given.
Effects and verdicts are kept apart, as for live mutants: ``source_effects.jsonl`` and ``source_verdicts.jsonl``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
from mutant_rows import Row
from source_mutations import SOURCE_MUTATIONS, Slip

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
TIMEOUT = 3000
"""Seconds for one good file and all that is made of it."""


@dataclass(frozen=True, slots=True)
class Good:
    """A good file.

    ``repo``: empty for this repository's examples. ``build``, ``inputs``: expressions, ``prelude``: names that they
    need, all for measuring.
    """

    repo: str
    path: str
    build: str
    inputs: str
    prelude: str = ""

    @property
    def name(self) -> str:
        return f"{self.repo or 'examples'}: {self.path}"


_ENVS = """
from types import SimpleNamespace as S
envs = S(single_observation_space=S(shape=(4,)), single_action_space=S(n=2))
"""
_SPACE = "class Discrete:\n    n = 4"
_GCN = "(torch.randn(48, 64), torch.eye(48))"
_IMAGE = "(torch.randn(8, 3, 32, 32),)"
_IDS = "(torch.randint(0, 500, (4, 32)),)"

GOOD = (
    Good("", "actor_critic.py", "Agent(envs)", "(torch.randn(16, 4),)", _ENVS),
    Good("", "gpt.py", "GPT(GPTConfig(n_layer=4))", _IDS),
    Good("", "resnet.py", "resnet20()", _IMAGE),
    Good("", "siren.py", "Siren()", "(torch.rand(256, 2) * 2 - 1,)"),
    Good("", "vgg_bn.py", "vgg11_bn()", _IMAGE),
    Good("", "vit.py", "ViT()", _IMAGE),
    Good("", "lstm_classifier.py", "LSTMClassifier(500)", _IDS),
    Good("", "mobilenet.py", "MobileNet()", _IMAGE),
    Good("karpathy/nanoGPT", "model.py",
         "GPT(GPTConfig(n_layer=4, n_head=4, n_embd=128, vocab_size=512))", _IDS),
    Good(
        "karpathy/minGPT", "mingpt/model.py", "GPT(config)", _IDS,
        "from mingpt.utils import CfgNode\nconfig = CfgNode(model_type=None, n_layer=12, n_head=12, n_embd=768, "
        "vocab_size=512, block_size=64, embd_pdrop=.1, resid_pdrop=.1, attn_pdrop=.1)",  # of the size in its README
    ),
    Good("bamos/densenet.pytorch", "densenet.py", "DenseNet(12, 22, 0.5, 10, True)", _IMAGE),
    Good("chengyangfu/pytorch-vgg-cifar10", "vgg.py", "vgg11()", _IMAGE),
    Good("meliketoy/wide-resnet.pytorch", "networks/wide_resnet.py", "Wide_ResNet(10, 2, 0.3, 10)", _IMAGE),
    Good(
        "ikostrikov/pytorch-a2c-ppo-acktr-gail", "a2c_ppo_acktr/model.py", "MLPBase(8, recurrent=True)",
        "(torch.randn(16, 8), torch.zeros(16, 64), torch.ones(16, 1))", _SPACE,
    ),
    Good("openai/CLIP", "clip/model.py", "CLIP(64, 32, 2, 64, 8, 16, 512, 64, 4, 3)",
         "(torch.randn(8, 3, 32, 32), torch.randint(0, 500, (8, 16)))"),
    Good("facebookresearch/ConvNeXt", "models/convnext.py", "ConvNeXt(depths=[1, 1, 2, 1], dims=[16, 32, 64, 128])",
         "(torch.randn(4, 3, 64, 64),)"),
    Good("vsitzmann/siren", "modules.py", "SingleBVPNet()", "({'coords': torch.rand(2, 128, 2) * 2 - 1},)"),
    Good("pytorch/examples", "gat/main.py", "GAT(64, 16, 4, 7)", _GCN),
    Good("pytorch/examples", "gcn/main.py", "GCN(64, 32, 7, use_bias=False)", _GCN),
    Good("pytorch/examples", "siamese_network/main.py", "SiameseNetwork()",
         "(torch.randn(4, 1, 28, 28), torch.randn(4, 1, 28, 28))"),
    Good("pytorch/examples", "super_resolution/model.py", "Net(3)", "(torch.randn(4, 1, 24, 24),)"),
    Good("pytorch/examples", "word_language_model/model.py", "TransformerModel(500, 64, 4, 64, 2)",
         "(torch.randint(0, 500, (16, 4)),)"),
    Good("pytorch/examples", "dcgan/main.py", "torch.nn.Sequential(Generator(1), Discriminator(1)).apply(weights_init)",
         "(torch.randn(8, 100, 1, 1),)",
         "nz, ngf, ndf, nc = 100, 64, 64, 3"),
    Good("pytorch/examples", "distributed/minGPT-ddp/mingpt/model.py",
         "GPT(GPTConfig(n_layer=4, n_head=4, n_embd=128, vocab_size=512, block_size=64))", _IDS),
    Good("pytorch/examples", "distributed/tensor_parallelism/llama2_model.py",
         "Transformer(ModelArgs(dim=128, n_layers=4, n_heads=4, vocab_size=512, max_seq_len=64))", _IDS),
    Good("pytorch/examples", "language_translation/src/model.py", "Translator(5, 5, 512, 8, 500, 500, 512, .1)",
         "(torch.randint(0, 500, (12, 4)), torch.randint(0, 500, (10, 4)), None, None, None, None, None)"),
)  # fmt: skip


def run(
    cache: Path,
    cases: Path | None,
    every: int,
    only: str = "",
    again: str = "",
    jobs: int = 1,
    recorded: bool = False,
) -> list[Row]:
    """Every slip in every good file, from the record where it is there already (see ``live_mutants.run``).

    Args:
        cases: folder of the public projects' checkouts; without it only this repository's examples are spoiled.
    """
    effects_path, verdicts_path = cache / "source_effects.jsonl", cache / "source_verdicts.jsonl"
    wanted: dict[Good, list[tuple[record.Key, Slip, str]]] = {}
    count = 0
    for good in GOOD:
        original = _original(good, cases)
        for key, slip, effect in _chosen(good, original.read_text()) if original is not None else ():
            count += 1
            if count % every == 0 and only in f"{key[0]} {good.name}":
                wanted.setdefault(good, []).append((key, slip, effect))
    with tempfile.TemporaryDirectory() as folder:
        for good, slips in wanted.items() if not recorded else ():
            _measure(good, cases, slips, Path(folder), effects_path)
        verdicts = record.keyed(verdicts_path)
        verdicts = {k: v for k, v in verdicts.items() if not record.stale(v["code"], f"{k[0]} {k[1]}", again)}
        todo = {
            g: [(key, slip) for key, slip, _ in slips if key not in verdicts]
            for g, slips in wanted.items()
            if not recorded
        }
        with ThreadPoolExecutor(jobs) as pool:
            tasks = [
                pool.submit(_judge, cases, Path(folder), verdicts_path, g, some) for g, some in todo.items() if some
            ]
            for done in tasks:
                done.result()
    effects, verdicts = record.keyed(effects_path), record.keyed(verdicts_path)
    rows = []
    for slips in wanted.values():
        for key, slip, _ in slips:
            if key not in effects or key not in verdicts:
                continue
            effect, verdict = dict(effects[key]), dict(verdicts[key])
            problem = effect.pop("problem") or verdict.pop("problem")
            rows.append(Row(*key, lines=sorted(slip.lines), **effect, **{**verdict, "problem": problem}))
    return rows


def _original(good: Good, cases: Path | None) -> Path | None:
    if not good.repo:
        return EXAMPLES / good.path
    if cases is None:
        return None
    owner = good.repo.replace("/", "+")
    found = sorted(cases.glob(f"{owner}/{good.path}")) or sorted(cases.glob(f"{owner}@*/{good.path}"))
    return found[0] if found else None


def _chosen(good: Good, text: str) -> Iterator[tuple[record.Key, Slip, str]]:
    """At most ``SITES`` slips of each class in one file, drawn with a fixed seed."""
    for mutation in SOURCE_MUTATIONS:
        slips = list(mutation.slips(text))
        random.Random(f"{good.name} {mutation.name}").shuffle(slips)
        for site, slip in enumerate(slips[: mutation.sites]):
            yield (mutation.name, good.name, site), slip, mutation.effect


def _placed(good: Good, cases: Path | None, text: str | None, folder: Path) -> Path:
    """A mirror of the file's project, by symbolic links, with the file written anew (None: as it is)."""
    original = _original(good, cases)
    assert original is not None
    root = original
    for _ in Path(good.path).parts:
        root = root.parent
    mirror = Path(tempfile.mkdtemp(dir=folder))
    at, here = root, mirror
    for part in Path(good.path).parts:
        if good.repo:
            for entry in at.iterdir():
                if entry.name != part and not entry.name.startswith("."):
                    (here / entry.name).symlink_to(entry)
        at, here = at / part, here / part
        if at.is_dir():
            here.mkdir()
    here.write_text(original.read_text() if text is None else text)
    if not good.repo:
        (mirror / "README.md").write_text("A project.\n")
    return here


def _measure(
    good: Good, cases: Path | None, slips: Sequence[tuple[record.Key, Slip, str]], folder: Path, path: Path
) -> None:
    known = record.keyed(path)
    missing = [(key, slip, effect) for key, slip, effect in slips if key not in known]
    if not missing:
        return
    file = _placed(good, cases, None, folder)
    root = file
    for _ in Path(good.path).parts:
        root = root.parent
    mutants = []
    for index, (key, slip, effect) in enumerate(missing):
        written = file.with_name(f"{file.stem}_{index}.py")
        written.write_text(slip.text)
        mutants.append({"key": key, "effect": effect, "path": str(written), "lines": sorted(slip.changed)})
    job = {
        "good": str(file), "paths": [str(root), str(file.parent)], "build": good.build, "inputs": good.inputs,
        "prelude": good.prelude, "mutants": mutants,
    }  # fmt: skip
    command = [sys.executable, str(HERE / "source_effect.py")]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=record.environment())
    said = {tuple(row.pop("key")): row for row in map(json.loads, filter(None, done.stdout.splitlines()))}
    for key, _, _ in missing:
        lost = {"harmful": False, "why": "", "problem": f"not measured: {done.stderr.strip()[-200:]}"}
        record.append_keyed(path, key, said.get(key, lost))


def _judge(cases: Path | None, folder: Path, path: Path, good: Good, slips: Sequence[tuple[record.Key, Slip]]) -> None:
    """One run of the command line over the good file and all that was made of it."""
    files = [_placed(good, cases, text, folder) for text in (None, *(slip.text for _, slip in slips))]
    command = [sys.executable, "-m", "initcheck", *map(str, files), "--output-format", "json", "--jobs", "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=record.environment())
        findings, problem = json.loads(done.stdout)["findings"], ""
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        findings, problem = [], f"{type(error).__name__}: {error}"[:200]
    by_path: dict[str, list[dict[str, Any]]] = {}
    for f in findings:
        by_path.setdefault(f["path"], []).append(_brief(f))
    before = {(f["code"], f["parameter"]) for f in by_path.get(str(files[0]), ())}
    for (key, _), file in zip(slips, files[1:], strict=True):
        found = by_path.get(str(file), [])
        new = [f for f in found if (f["code"], f["parameter"]) not in before and not f["code"].startswith("IC0")]
        record.append_keyed(path, key, {"found": new, "problem": problem, "code": record.code_version()})


def _brief(finding: dict[str, Any]) -> dict[str, Any]:
    return {
        "code": finding["code"],
        "severity": finding["severity"],
        "parameter": finding.get("parameter") or "",
        "line": finding["line"],
        "message": finding["message"][:200],
    }
