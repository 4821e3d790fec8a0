"""Whether a file could define or build an ``nn.Module``, told from its source: most Python files cannot."""

from __future__ import annotations

import ast
import re
import sys

from initcheck.source.imports import Imports
from initcheck.source.locate import Classes
from initcheck.source.torch_names import words

# Packages whose classes are modules or whose functions build modules.
_MODEL_LIBRARIES = frozenset(
    words("""
    torchvision torchaudio torchtext torchrl timm transformers diffusers lightning pytorch_lightning fastai monai
    segmentation_models_pytorch torch_geometric dgl stable_baselines3 sb3_contrib tianshou peft open_clip clip
    ultralytics mmcv mmengine mmdet mmseg detectron2 fairseq fairscale deepspeed megatron espnet speechbrain
    sentence_transformers allennlp flair x_transformers vit_pytorch flash_attn mamba_ssm xformers kornia
    efficientnet_pytorch e3nn gpytorch botorch neuralop pyro ignite accelerate nemo torchtune torchtitan
    """)
)
# Parts of torch that neither are modules nor make any.
_MODULELESS = re.compile(r"torch\.(?!nn\b|hub\b|jit\b|load\b|ao\b|quantization\b|compile\b|fx\b|export\b)")
_MODULELESS_NN = re.compile(r"torch\.nn\.(functional|utils|init|Parameter|[A-Z]\w*Loss)\b")
# Third-party packages that hold no models, whatever is imported from them.
_PLAIN = frozenset(
    words("""
    numpy scipy pandas sklearn matplotlib seaborn PIL cv2 skimage tqdm yaml toml tomli requests click rich pytest
    hypothesis pydantic attr attrs django flask fastapi sqlalchemy boto3 h5py joblib gym gymnasium wandb tensorboard
    tensorboardX omegaconf hydra absl fire einops networkx numba nltk spacy tokenizers datasets evaluate sympy psutil
    setuptools packaging jinja2 IPython ipywidgets plotly albumentations imageio librosa soundfile mlflow optuna ray
    initcheck
    """)
)
_TEST_FILE = re.compile(r"(?:test_\w+|\w+_test|conftest)\.py$")


def can_hold_modules(path: str, classes: Classes, imports: Imports) -> bool:
    """False only if no model can be defined or built here.

    True if a class derives from something that may be a module, or if code outside of tests names modules of torch, a
    library of models, or (in a file that uses torch) anything of the user's own that could be a model. A test file
    that defines no module of its own only uses models of other files; these are checked where they are defined.
    """
    own = {node.name for _, node in classes}
    if any(_may_be_module(node, own, imports) for node in dict(classes).values()):
        return True
    if _TEST_FILE.search(path):
        return False
    roots = {module.partition(".")[0] for module in imports.modules}
    if roots & _MODEL_LIBRARIES:
        return True
    if "torch" not in roots:
        return False
    if any(not _is_plain(root) for root in roots - {"torch"}):  # "" is the root of a relative import
        return True
    return any(
        name.startswith("torch.") and not _MODULELESS.match(name) and not _MODULELESS_NN.match(name)
        for _, name in imports.references()
        if name != "torch.nn"
    )


def _is_plain(root: str) -> bool:
    return root in _PLAIN or root in sys.stdlib_module_names or root == "__future__"


def _may_be_module(node: ast.ClassDef, own: set[str], imports: Imports) -> bool:
    """Whether a class derives from a module, or has a ``forward`` and a base from who knows where."""
    has_forward = any(isinstance(item, ast.FunctionDef) and item.name == "forward" for item in node.body)
    for base in node.bases:
        target = base.value if isinstance(base, ast.Subscript) else base  # Base[T]
        name = imports.resolve(target)
        if name is None:
            # A class of this file is judged by itself; what remains is computed at run time or a star import.
            known_here = isinstance(target, ast.Name) and target.id in own
            if has_forward and not known_here:
                return True
            continue
        root = name.partition(".")[0]
        if root in _MODEL_LIBRARIES or (root == "torch" and not _is_data_class(name)):
            return True
        if has_forward and not _is_plain(root):
            return True
    return False


_DATA = ("torch.utils.", "torch.optim.", "torch.autograd.", "torch.distributions.", "torch.Tensor")


def _is_data_class(name: str) -> bool:
    return name.startswith(_DATA)
