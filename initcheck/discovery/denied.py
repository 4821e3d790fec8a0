"""Calls that discovery never makes on the way to a model: data sets, downloads, files, programs, trackers."""

from __future__ import annotations

import ast

from initcheck.source.imports import Imports

_DENIED: dict[str, str] = {
    "torchvision.datasets": "data sets are not loaded",
    "torchaudio.datasets": "data sets are not loaded",
    "torchtext": "data sets are not loaded",
    "torch_geometric.datasets": "data sets are not loaded",
    "datasets": "data sets are not loaded",
    "sklearn.datasets.fetch_": "data sets are not loaded",
    "tensorflow_datasets": "data sets are not loaded",
    "torch.hub": "nothing is downloaded",
    "torch.load": "checkpoints are not read",
    "torch.save": "no files are written",
    "numpy.load": "data files are not read",
    "numpy.loadtxt": "data files are not read",
    "pandas.read_": "data files are not read",
    "huggingface_hub": "nothing is downloaded",
    "requests": "nothing is downloaded",
    "urllib": "nothing is downloaded",
    "gdown": "nothing is downloaded",
    "wandb": "nothing is reported",
    "mlflow": "nothing is reported",
    "torch.utils.tensorboard": "no files are written",
    "tensorboardX": "no files are written",
    "torch.distributed.init_process_group": "no process group is started",
    "torch.multiprocessing": "no processes are started",
    "torch.set_default_device": "no device is taken",
    "subprocess": "no programs are run",
    "shutil": "no files are touched",
    "os.system": "no programs are run",
    "os.makedirs": "no files are written",
    "os.mkdir": "no files are written",
    "os.remove": "no files are touched",
    "os.chdir": "the working folder stays",
    "sys.exit": "the program is not run",
}
_BUILTINS = {"input": "nobody is asked", "exit": "the program is not run", "quit": "the program is not run"}


def denied_call(node: ast.AST, imports: Imports) -> str | None:
    """``"torchvision.datasets.MNIST: data sets are not loaded"`` if executing ``node`` would make such a call."""
    for call in ast.walk(node):
        if not isinstance(call, ast.Call):
            continue
        if isinstance(call.func, ast.Name) and call.func.id in _BUILTINS and not imports.is_bound(call.func.id):
            return f"{call.func.id}(): {_BUILTINS[call.func.id]}"
        name = imports.resolve(call.func)
        if name is None:
            continue
        for prefix, reason in _DENIED.items():
            if name == prefix or name.startswith(prefix if prefix.endswith("_") else f"{prefix}."):
                return f"{name}: {reason}"
    return None
