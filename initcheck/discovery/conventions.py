"""What the field calls the sizes of a model, and a small value for each: ``hidden_size``, ``num_heads``, ``dropout``.

One row is a value and the patterns of the names that get it; the first row that matches wins. The values agree with
each other: widths are multiples of the number of heads, images of the patch size.
"""

from __future__ import annotations

import re
from typing import Any

from initcheck.discovery.environments import Box, Discrete

UNKNOWN = object()
"""No value suggests itself."""

_NAMES: tuple[tuple[Any, str], ...] = (
    (32, r"""
        (img|image)_?(size|res|resolution|dim)s? resolution crop_size (input|image)_resolution
    """),
    (32, r"""
        (image|img|frame)_?(height|width|h|w) height width_px
    """),
    (4, r"""
        patch(_?size)? patch_dim
    """),
    (8, r"""
        spacial_dim spatial_dim feature_size
    """),
    (3, r"""
        (num_|n_|nb_)?(in|input|img|image|colou?r)_?(channels?|chans?|ch|planes_rgb|nc) channels?_in nc in_c inc
    """),
    (3, r"""
        (num_)?channels chans n_channels n_colou?rs
    """),
    (16, r"""
        in_?planes inplanes in_feat(ure)?s?_maps in_planes
    """),
    (16, r"""
        out_?planes planes mid_channels hidden_channels c_hidden n_feats num_feats? nf ngf ndf
    """),
    (16, r"""
        (out|output)_?(channels?|chans?|ch|nc) channels?_out out_c outc
    """),
    (3, r"""
        kernel_?size kernel ksize k_size kernel_width
    """),
    (1, r"""
        strides? dilation groups expansion cardinality scale_idx
    """),
    (1, r"""
        padding pad
    """),
    (2, r"""
        upscale(_factor)? scale_factor upscaling scale sf
    """),
    (4, r"""
        reduction(_ratio)? ratio squeeze
    """),
    (12, r"""
        growth_?rate growth
    """),
    (8, r"""
        modes\d?
    """),
    (1, r"""
        width(_?mult(iplier)?)?_?factor widen_?factor width_?mult(iplier)? alpha multiplier
    """),
    (10, r"""
        (num_?|n_?|nb_?)?(classes|class(es)?_?num|labels?|num_class|class_num|tags?|targets?|categories) nclass
        nlabels nc_out
    """),
    (4, r"""
        (num_?|n_?)(actions?|outputs?) actions?_(num|size|dim|n) act_dim ac_dim actions?_space_n dim_action a_dim
        nb_actions
    """),
    (8, r"""
        (state|obs|observation|s)_?(size|dim|num|n) (num_|n_)(states?|inputs?|obs) ob_dim nb_states dim_obs
    """),
    (1.0, r"""
        max_action action_(bound|limit|scale|range) log_std_max act_limit
    """),
    (0, r"""
        seed random_state random_seed
    """),
    (1000, r"""
        (n_?|num_?|src_?|tgt_?|trg_?|source_|target_)?(vocab(ulary)?(_?(size|len|dim))?|tokens?|words?|embeddings)
        ntokens? ntoken nvocab input_vocab_size n_?vocab voc_size output_vocab dict_size num_items num_users
        n_users n_items num_entities num_nodes_types
    """),
    (32, r"""
        (max_?|n_?)?(seq(uence)?_?(len(gth)?)|block_?size|context_?(len(gth)?|size|window)?|n_?ctx|max_?len(gth)?|positions?|max_position_embeddings|max_pos|time_?steps|window(_size)?|bptt|n_positions|num_frames|seqlen|src_len|tgt_len|max_context_length|ctx_len|lookback|seq)
    """),
    (4, r"""
        (n_?|num_?)?(attention_?)?heads? n_?heads? nhead num_attention_heads attn_heads h
    """),
    (4, r"""
        (n_?|num_?)(kv|key_value)_?heads num_key_value_heads
    """),
    (2, r"""
        (n_?|num_?|enc_?|dec_?|encoder_|decoder_)*(layers?|blocks?|depth|hidden_layers|stacks?|cells?|res_?blocks?|stages?|levels?)
        depth nlayers? n_?layer num_hidden_layers n_blocks repeats? num_of_layers n_resblocks layer_num L N
    """),
    (16, r"""
        (d_?|dim_?|n_?)?head_?(dim|size) d_k d_v dim_head d_head size_per_head
    """),
    (128, r"""
        intermediate_size (d_?)?ff(n|_dim|_size|_hidden|w)? d_ff mlp_(dim|size|hidden) dim_?feed_?forward
        feed_?forward_(dim|size) d_inner hidden_ff ffn_dim
    """),
    (4, r"""
        mlp_ratio ff_mult expansion_factor expand(_ratio)? mult
    """),
    (4, r"""
        (num_?|n_?)experts
    """),
    (2, r"""
        top_?k num_experts_per_tok k
    """),
    (4, r"""
        rank lora_r(ank)? r
    """),
    (8, r"""
        lora_alpha
    """),
    (64, r"""
        (in|input|n_in|feature|feat|num_)_?(features?|feats?|size|dims?|sz|shape_flat|units) input n_?in in_dim
        idim indim inp(ut)?(_dim|_size|s)? nfeat d_?in dim_in nin fan_in n_?inputs? num_inputs in_features
        input_features n_features x_dim data_dim num_node_features num_in_features ni ninp inp_dim features_dim
    """),
    (10, r"""
        (out|output|n_out)_?(features?|feats?|size|dims?|sz)? n_?out odim outdim d_?out dim_out nout fan_out
        n_?outputs? y_dim out_features num_outputs num_out_features no
    """),
    (16, r"""
        (latent|z|code|noise|bottleneck|embedding_z)_?(dims?|size|features|channels|sz)? nz latent z_dim n_latent
        zdim nlatent dim_z
    """),
    (64, r"""
        (n_?|num_?|d_?|dim_?|size_?)?(hid(den)?s?|h)(_?(size|dims?|features|units|channels|state|sz|nodes|neurons))?
        nhid n_?hidden rnn_size lstm_size hsize num_hidden units neurons fc_?(units|dim|size) fc\d_units width
        mlp_width filters ch dim dims d size features emb hdim channel n_units c C cell_size state_dim_h
        num_filters base base_channels
    """),
    (64, r"""
        (n_?|num_?|d_?|dim_?)?(emb(ed(ding)?s?)?|model|e)(_?(size|dims?|features|channels|sz|d))? n_?embd?
        d_?model emsize embed_dim emb_dim nembd encoder_dim decoder_dim enc_dim dec_dim query_dim key_dim
        value_dim context_dim attn_dim attention_dim proj(ection)?_dim c_model width_model transformer_width
        cond_dim time_dim hidden_d
    """),
    (0.1, r"""
        .*(drop|dp_ratio).* p p_dropout pdrop
    """),
    (0.2, r"""
        (negative_)?slope leak(iness)?
    """),
    (1e-05, r"""
        eps(ilon)? layer_norm_eps(ilon)? norm_eps rms_norm_eps bn_eps
    """),
    (0.1, r"""
        momentum bn_momentum
    """),
    (1.0, r"""
        temperature tau temp beta gamma lambd lam res_scale
    """),
    (0.02, r"""
        initializer_range init_range
    """),
    (10000.0, r"""
        rope_theta theta base_freq
    """),
    (30.0, r"""
        (first_)?omega(_0|0)? w0 hidden_omega_0 first_omega_0
    """),
    (False, r"""
        (use_?|is_?|with_?|has_?|do_?|add_?|enable_?)\w+ bias qkv_bias batch_first batch_?norm bn residual
        shortcut learnable verbose inplace affine tie_\w+ tied bidirectional causal pretrained return_\w+
        output_\w+ norm_first init_weights gradient_checkpointing flash
    """),
    (8, r"""
        batch(_?size)? bs bsz n_batch
    """),
    (0.001, r"""
        lr learning_rate weight_decay wd
    """),
    ('cpu', r"""
        device map_location
    """),
    (None, r"""
        dtype precision
    """),
    (0, r"""
        padding_idx pad_(idx|token_id|id|token) pad_idx src_pad_idx trg_pad_idx ignore_index unk_idx bos_token_id
        eos_token_id sos_idx
    """),
    (1, r"""
        (n|num)_?gpus? gpu_ids? world_size
    """),
    ('relu', r"""
        activation(_fn|_function|_type)? act(_fn|_type|_func)? nonlinearity hidden_act
    """),
    ('batch', r"""
        norm(_type|alization)?
    """),
    ('LSTM', r"""
        rnn_type cell_type cell rnn
    """),
    (UNKNOWN, r"""
        mode type model_type name arch backbone_name padding_mode
    """),
    (2, r"""
        n m num
    """),
)  # fmt: skip
_TABLE = [(re.compile("|".join(patterns.split())), value) for value, patterns in _NAMES]


def by_name(name: str) -> Any:
    """The value that the field's conventions give a parameter of that name; UNKNOWN if they give none."""
    lowered = name.lstrip("_")
    for candidate in (lowered, lowered.lower()):
        for pattern, value in _TABLE:
            if pattern.fullmatch(candidate):
                return value
    _, underscore, rest = lowered.partition("_")
    return by_name(rest) if underscore and len(rest) > 2 else UNKNOWN  # vision_patch_size is a patch_size


def guess_shape(name: object) -> Any:
    """Lists and shapes by their names: ``units``, ``hidden_sizes``, ``input_shape``."""
    text = str(name).lower()
    if re.search(r"(image|img)_?shape", text):
        return (3, 32, 32)
    if re.search(r"(obs|input|state|observation)s?_?(shape|dims)", text):
        return (8,)
    if text.endswith("_space") or text == "space":
        return Discrete(4) if "action" in text else Box((8,))
    if re.search(r"(units|sizes|dims|widths|filters|channels|layers|features|hiddens|planes)(_list)?$", text):
        return [64, 64]
    return UNKNOWN
