"""Initialisers that ``torch.nn.init`` lacks, usable on their own, and what initcheck itself suggests.

Conventions of ``torch.nn.init``: in place (trailing underscore), under ``no_grad``, ``generator=``, the tensor is
returned; any dtype and device; a logged no-op on meta tensors. Importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initcheck.init.biases import forget_gate_bias_ as forget_gate_bias_
    from initcheck.init.biases import irnn_ as irnn_
    from initcheck.init.biases import positive_bias_ as positive_bias_
    from initcheck.init.biases import prior_bias_ as prior_bias_
    from initcheck.init.data_dependent import lsuv_ as lsuv_
    from initcheck.init.depth import deepnorm_ as deepnorm_
    from initcheck.init.depth import deepnorm_constants as deepnorm_constants
    from initcheck.init.depth import depth_scaled_normal_ as depth_scaled_normal_
    from initcheck.init.depth import ds_init_ as ds_init_
    from initcheck.init.depth import mup_normal_ as mup_normal_
    from initcheck.init.depth import mup_std as mup_std
    from initcheck.init.depth import rezero_ as rezero_
    from initcheck.init.depth import skipinit_ as skipinit_
    from initcheck.init.depth import subln_ as subln_
    from initcheck.init.depth import subln_gain as subln_gain
    from initcheck.init.depth import t_fixup_scales as t_fixup_scales
    from initcheck.init.fans import Fans as Fans
    from initcheck.init.fans import effective_fans as effective_fans
    from initcheck.init.fans import fans_of as fans_of
    from initcheck.init.fixup import fixup_ as fixup_
    from initcheck.init.fixup import rezero_model_ as rezero_model_
    from initcheck.init.orthogonal import centred_orthogonal_ as centred_orthogonal_
    from initcheck.init.orthogonal import delta_orthogonal_ as delta_orthogonal_
    from initcheck.init.orthogonal import looks_linear_ as looks_linear_
    from initcheck.init.orthogonal import orthogonal_ as orthogonal_
    from initcheck.init.orthogonal import unitary_ as unitary_
    from initcheck.init.scaling import glorot_normal_ as glorot_normal_
    from initcheck.init.scaling import glorot_uniform_ as glorot_uniform_
    from initcheck.init.scaling import he_normal_ as he_normal_
    from initcheck.init.scaling import he_uniform_ as he_uniform_
    from initcheck.init.scaling import lecun_normal_ as lecun_normal_
    from initcheck.init.scaling import lecun_uniform_ as lecun_uniform_
    from initcheck.init.scaling import random_walk_ as random_walk_
    from initcheck.init.scaling import siren_ as siren_
    from initcheck.init.scaling import sparse_ as sparse_
    from initcheck.init.scaling import variance_scaling_ as variance_scaling_
    from initcheck.init.transformer import deepnorm_model_ as deepnorm_model_
    from initcheck.init.transformer import ds_init_model_ as ds_init_model_
    from initcheck.init.transformer import gpt2_model_ as gpt2_model_
    from initcheck.init.transformer import subln_model_ as subln_model_
    from initcheck.init.transformer import t_fixup_ as t_fixup_

# Functions that bear their module's name are bound here, at once: a later import of the submodule would else hide them.
from initcheck.init.apply import Change as Change
from initcheck.init.apply import apply as apply
from initcheck.init.apply import apply_suggestions as apply_suggestions
from initcheck.init.gain import gain as gain
from initcheck.init.suggest import Suggestion as Suggestion
from initcheck.init.suggest import suggest as suggest

_HOMES = {
    "biases": ("forget_gate_bias_", "irnn_", "positive_bias_", "prior_bias_"),
    "data_dependent": ("lsuv_",),
    "depth": (
        "deepnorm_",
        "deepnorm_constants",
        "depth_scaled_normal_",
        "ds_init_",
        "mup_normal_",
        "mup_std",
        "rezero_",
        "skipinit_",
        "subln_",
        "subln_gain",
        "t_fixup_scales",
    ),
    "fans": ("Fans", "effective_fans", "fans_of"),
    "fixup": ("fixup_", "rezero_model_"),
    "orthogonal": ("centred_orthogonal_", "delta_orthogonal_", "looks_linear_", "orthogonal_", "unitary_"),
    "scaling": (
        "glorot_normal_",
        "glorot_uniform_",
        "he_normal_",
        "he_uniform_",
        "lecun_normal_",
        "lecun_uniform_",
        "random_walk_",
        "siren_",
        "sparse_",
        "variance_scaling_",
    ),
    "transformer": ("deepnorm_model_", "ds_init_model_", "gpt2_model_", "subln_model_", "t_fixup_"),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(["Change", "Suggestion", "apply", "apply_suggestions", "gain", "suggest", *_LAZY])


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"initcheck.init.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
