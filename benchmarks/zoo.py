"""Models to compare prediction and measurement on: id, family, constructor, inputs. Nothing is downloaded.

Own nets (``zoo_nets.py``), torchvision, timm (one small variant of every family that fits), transformers from configs;
held out, what ``zoo_further.py`` has of other packages.
A package that is not installed leaves its models out, and says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import zoo_nets as nets
from torch import nn

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Inputs = Callable[[int, str], Arguments]
"""(batch size, "white" or "correlated") -> (args, kwargs)."""


@dataclass(frozen=True, slots=True)
class Model:
    """``spatial``: its input has neighbouring positions (pixels, samples of a wave) that can be correlated.

    ``told``: an input is not N(0, 1) (the adjacency matrix of a graph): the prediction is told its statistics.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    spatial: bool = False
    told: bool = False


def field(kind: str, *shape: int, axes: int = 2) -> torch.Tensor:
    """Unit-variance normal numbers: white, or with power 1/f² along the last ``axes`` dims, as natural images have.

    Channels (dim 1) share nine tenths of their variance, as the colours of photographs do.
    """
    if kind == "white":
        return torch.randn(shape)
    sizes = shape[-axes:]
    torus = [2 * n for n in sizes]  # twice as large, so that opposite edges are no neighbours
    frequencies = torch.meshgrid(*(torch.fft.fftfreq(n) * n for n in torus), indexing="ij")
    amplitude = 1 / torch.stack(frequencies).square().sum(0).sqrt().clamp(min=1.0)
    amplitude = amplitude / amplitude.square().mean().sqrt()
    dims = tuple(range(-axes, 0))

    def coloured(*size: int) -> torch.Tensor:
        spectrum = torch.fft.fftn(torch.randn(*size, *torus), dim=dims)
        whole = torch.fft.ifftn(spectrum * amplitude, dim=dims).real
        return whole[(..., *(slice(n) for n in sizes))]

    one_channel = (shape[0], *([1] * (len(shape) - axes - 1)))
    return 0.9**0.5 * coloured(*one_channel) + 0.1**0.5 * coloured(*shape[:-axes])


def images(size: int, channels: int = 3, name: str = "") -> Inputs:
    def make(batch: int, kind: str) -> Arguments:
        x = field(kind, batch, channels, size, size)
        return ((), {name: x}) if name else ((x,), {})

    return make


def vectors(*shape: int) -> Inputs:
    return lambda batch, kind: ((torch.randn(batch, *shape),), {})


def tokens(vocabulary: int, length: int = 32, name: str = "", time_first: bool = False) -> Inputs:
    def make(batch: int, kind: str) -> Arguments:
        x = torch.randint(0, vocabulary, (length, batch) if time_first else (batch, length))
        return ((), {name: x}) if name else ((x,), {})

    return make


def graph(batch: int, kind: str) -> Arguments:
    """16 nodes per unit of batch, random undirected edges with self-loops, rows normalised."""
    count = 16 * batch
    edges = (torch.rand(count, count) < 4 / count).float()
    adjacency = ((edges + edges.T + torch.eye(count)) > 0).float()
    return (torch.randn(count, 64), adjacency / adjacency.sum(1, keepdim=True)), {}


def own_models() -> list[Model]:
    def one(
        name: str, build: Callable[[], nn.Module], inputs: Inputs, spatial: bool = False, told: bool = False
    ) -> Model:
        return Model(f"own:{name}", f"own:{name.split('-')[0]}", build, inputs, spatial, told)

    def encoder() -> nn.Module:
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 256, batch_first=True), 2)

    def pair(batch: int, kind: str) -> Arguments:
        return (torch.randn(batch, 16, 128), torch.randn(batch, 12, 128)), {}

    def two_images(batch: int, kind: str) -> Arguments:
        return (field(kind, batch, 1, 28, 28), field(kind, batch, 1, 28, 28)), {}

    p = functools.partial
    he = p(nn.init.kaiming_normal_, nonlinearity="relu")
    return [
        one("mlp-relu", p(nets.mlp, 20, 256, nn.ReLU), vectors(256)),
        one("mlp-relu-he", p(nets.mlp, 20, 256, nn.ReLU, he), vectors(256)),
        one("mlp-tanh", p(nets.mlp, 20, 256, nn.Tanh), vectors(256)),
        one("mlp-tanh-xavier", p(nets.mlp, 20, 256, nn.Tanh, nn.init.xavier_uniform_), vectors(256)),
        one("mlp-gelu", p(nets.mlp, 10, 256, nn.GELU), vectors(256)),
        one("mlp-selu-lecun", p(nets.mlp, 20, 256, nn.SELU, nets.lecun_), vectors(256)),
        one("mlp-sigmoid", p(nets.mlp, 5, 256, nn.Sigmoid), vectors(256)),
        one("mlp-residual", nets.ResidualMLP, vectors(128)),
        one("siren", nets.Siren, vectors(2)),
        one("actor-critic", nets.ActorCritic, vectors(4)),
        one("vae", nets.VAE, vectors(784)),
        one("rnn-LSTM", p(nets.RecurrentTagger, "LSTM"), tokens(1000)),
        one("rnn-GRU", p(nets.RecurrentTagger, "GRU"), tokens(1000)),
        one("rnn-RNN", p(nets.RecurrentTagger, "RNN"), tokens(1000)),
        one("rnn-LSTM-4", p(nets.RecurrentTagger, "LSTM", 4), tokens(1000)),
        one("rnn-GRU-4", p(nets.RecurrentTagger, "GRU", 4), tokens(1000)),
        one("rnn-LSTM-bi", p(nets.RecurrentTagger, "LSTM", 2, True), tokens(1000)),
        one("rnn-cells", nets.ByHand, vectors(10)),
        one("lm-LSTM", p(nets.LanguageModel, "LSTM"), tokens(2000, 35, time_first=True)),
        one("lm-GRU", p(nets.LanguageModel, "GRU"), tokens(2000, 35, time_first=True)),
        one("lm-transformer", nets.TransformerLM, tokens(2000, 35, time_first=True)),
        one("gpt", nets.SmallGPT, tokens(1000, 32)),
        one("encoder", encoder, vectors(16, 128)),
        one("seq2seq", lambda: nn.Transformer(128, 4, 2, 2, 256, batch_first=True), pair),
        one("digits", nets.DigitNet, images(28, 1), True),
        one("digits-rows", nets.RowReader, vectors(28, 28)),
        one("autoencoder", nets.Autoencoder, images(32), True),
        one("siamese", nets.Siamese, two_images, True),
        one("dcgan-generator", nets.dcgan_generator, vectors(100, 1, 1)),
        one("dcgan-discriminator", nets.dcgan_discriminator, images(64), True),
        one("superresolution", nets.super_resolution, images(32, 1), True),
        one("style", nets.StyleNet, images(64), True),
        one("unet", nets.UNet, images(64), True),
        one("unet-plain", p(nets.UNet, False), images(64), True),
        one("unet-bilinear", p(nets.UNet, True, True), images(64), True),
        one("gcn", nets.GraphConvolutions, graph, told=True),
        one("gat", nets.GraphAttention, graph, told=True),
    ]  # fmt: skip


_TORCHVISION = """
alexnet:96 vgg11:64 vgg11_bn:64 squeezenet1_1:96 googlenet:96 inception_v3:299 densenet121:64 resnet18:96 resnet50:64
resnext50_32x4d:64 wide_resnet50_2:64 shufflenet_v2_x0_5:96 mnasnet0_5:96 mobilenet_v2:96 mobilenet_v3_small:96
efficientnet_b0:96 efficientnet_v2_s:64 regnet_x_400mf:96 regnet_y_400mf:96 convnext_tiny:96 swin_t:96 swin_v2_t:96
vit_b_32:224 maxvit_t:224
"""
"""name:image size. Small images: the benchmark measures scales, and the same net is as hard at any size."""
_FIXED_INIT = ("googlenet", "inception_v3")
"""torchvision asks for an explicit choice of their slow initialisation."""


def _torchvision(name: str) -> nn.Module:
    import torchvision.models as models

    if name == "vit_b_32":
        return models.VisionTransformer(
            image_size=224, patch_size=32, num_layers=4, num_heads=12, hidden_dim=768, mlp_dim=3072
        )
    return getattr(models, name)(weights=None, **({"init_weights": True} if name in _FIXED_INIT else {}))


def torchvision_models() -> list[Model]:
    declare_missing_ops()
    import torchvision  # noqa: F401

    found = []
    for entry in _TORCHVISION.split():
        name, size = entry.split(":")
        build = functools.partial(_torchvision, name)
        found.append(Model(f"tv:{name}", f"tv:{name.rstrip('0123456789')}", build, images(int(size)), True))
    return found


_TIMM = """
vision_transformer vit_tiny_patch16_224 224 depth=6
vision_transformer vit_small_patch16_dinov3 128 depth=4
deit deit_tiny_distilled_patch16_224 224 depth=6
beit beit_base_patch16_224 224 depth=3 embed_dim=192 num_heads=3
eva eva02_tiny_patch14_224 224 depth=6
cait cait_xxs24_224 224 depth=6
crossvit crossvit_9_240 240
xcit xcit_nano_12_p16_224 224
volo volo_d1_224 224
tnt tnt_s_patch16_224 224 depth=4
pit pit_ti_224 224
levit levit_128s 224
convit convit_tiny 224
coat coat_lite_tiny 224
twins twins_svt_small 128
twins twins_pcpvt_small 128
visformer visformer_tiny 224
nest nest_tiny 224
swin_transformer swin_tiny_patch4_window7_224 224
swin_transformer_v2 swinv2_tiny_window8_256 256
swin_transformer_v2_cr swinv2_cr_tiny_224 224
vision_transformer_relpos vit_relpos_small_patch16_224 224 depth=4
vision_transformer_hybrid vit_tiny_r_s16_p8_224 224 depth=4
vision_transformer_sam samvit_base_patch16_224 224 depth=3 embed_dim=192 num_heads=3
naflexvit naflexvit_base_patch16_gap 224 depth=3 embed_dim=192 num_heads=3
mlp_mixer mixer_s32_224 224
mlp_mixer gmlp_ti16_224 224
mlp_mixer resmlp_12_224 224
mvitv2 mvitv2_tiny 224
pvt_v2 pvt_v2_b0 128
hiera hiera_tiny_224 224
hieradet_sam2 sam2_hiera_tiny 224
focalnet focalnet_tiny_srf 128
davit davit_tiny 128
gcvit gcvit_xxtiny 224
tiny_vit tiny_vit_5m_224 224
vitamin vitamin_small_224 224
efficientformer efficientformer_l1 224
efficientformer_v2 efficientformerv2_s0 224
efficientvit_mit efficientvit_b0 128
efficientvit_msra efficientvit_m0 224
efficientvim efficientvim_m1 224
iformer iformer_t 224
lowformer lowformer_b0 128
cpubone cpubone_nano 128
fastvit fastvit_t8 128
mobilevit mobilevit_xxs 128
mobilevit mobilevitv2_050 128
edgenext edgenext_xx_small 128
swiftformer swiftformer_xs 224
nextvit nextvit_small 128
shvit shvit_s1 128
repvit repvit_m0_9 128
metaformer poolformer_s12 128
metaformer convformer_s18 128
metaformer caformer_s18 128
maxxvit coatnet_pico_rw_224 224
maxxvit maxvit_pico_rw_256 256
sequencer sequencer2d_s 224
mambaout mambaout_femto 128
convmixer convmixer_768_32 56
convnext convnext_atto 128
convnext convnextv2_atto 128
convnext convnext_atto_ols 128
inception_next inception_next_atto 128
rdnet rdnet_tiny 128
starnet starnet_s050 128
fasternet fasternet_t0 128
csatv2 csatv2 256
resnet resnet18 96
resnet resnet26d 96
resnet ecaresnet26t 96
resnetv2 resnetv2_18 96
resnetv2 resnetv2_50x1_bit 96
resnetv2 resnetv2_50d_evos 96
nfnet nf_resnet26 96
nfnet nf_seresnet26 96
nfnet dm_nfnet_f0 96
nfnet eca_nfnet_l0 96
nfnet nf_regnet_b0 96
regnet regnetx_002 96
regnet regnety_002 96
regnet regnetv_040 96
senet legacy_seresnet18 96
sknet skresnet18 96
resnest resnest14d 96
res2net res2net50_14w_8s 96
dla dla34 96
dla dla46x_c 96
dpn dpn48b 96
densenet densenetblur121d 96
vgg vgg11 96
vovnet ese_vovnet19b_slim_dw 96
selecsls selecsls42 96
hrnet hrnet_w18_small 96
cspnet cspresnet50 96
cspnet cs3darknet_focus_s 96
cspnet darknet17 96
cspnext cspnext_tiny 96
tresnet tresnet_m 96
hgnet hgnetv2_b0 96
inception_v3 inception_v3 128
inception_v4 inception_v4 128
inception_resnet_v2 inception_resnet_v2 128
xception legacy_xception 96
xception_aligned xception41 96
byobnet repvgg_a0 96
byobnet mobileone_s0 96
byobnet gernet_s 96
byobnet gcresnext26ts 96
byobnet bat_resnext26ts 256
byoanet botnet26t_256 256
byoanet halonet26t 256
byoanet lambda_resnet26t 256
efficientnet efficientnet_b0 96
efficientnet mnasnet_050 96
efficientnet tinynet_e 96
efficientnet mixnet_s 96
efficientnet efficientnet_b0_gn 96
efficientnet tf_efficientnetv2_b0 96
mobilenetv3 mobilenetv3_small_050 96
mobilenetv3 lcnet_050 96
mobilenetv3 fbnetv3_b 96
mobilenetv3 mobilenetv4_conv_small 96
lcnetv2 lcnetv2_small 96
ghostnet ghostnet_050 96
ghostnet ghostnetv2_100 96
repghost repghostnet_050 96
rexnet rexnet_100 96
hardcorenas hardcorenas_a 96
"""
"""timm module, model, image size, changes to its configuration (a cut in depth or width where all variants are big)."""


def _timm(name: str, **changes: int) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **changes)


def timm_models() -> list[Model]:
    declare_missing_ops()
    import timm

    found = []
    for line in filter(None, _TIMM.splitlines()):
        family, name, size, *changes = line.split()
        if not timm.is_model(name):
            print(f"# timm {timm.__version__} has no {name}")
            continue
        build = functools.partial(_timm, name, **{k: int(v) for k, _, v in (c.partition("=") for c in changes)})
        found.append(Model(f"timm:{name}", f"timm:{family}", build, images(int(size)), True))
    return found


def transformers_models() -> list[Model]:
    declare_missing_ops()
    import transformers as t

    small = {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8,
        "vocab_size": 4096, "use_cache": False,
    }  # fmt: skip
    grouped = {**small, "num_key_value_heads": 4}
    bert = {
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
        "vocab_size": 4096,
    }  # fmt: skip
    ids = tokens(4096, 64, "input_ids")
    short = tokens(4096, 16, "input_ids")

    def pair(batch: int, kind: str) -> Arguments:
        return (), {
            "input_ids": torch.randint(3, 4096, (batch, 32)),
            "decoder_input_ids": torch.randint(3, 4096, (batch, 16)),
        }

    def speech(batch: int, kind: str) -> Arguments:
        decoder = torch.randint(3, 4096, (batch, 16))
        return (), {"input_features": field(kind, batch, 80, 600, axes=1), "decoder_input_ids": decoder}

    def wave(batch: int, kind: str) -> Arguments:
        return (), {"input_values": field(kind, batch, 1, 8000, axes=1)[:, 0]}

    def caption(batch: int, kind: str) -> Arguments:
        words = torch.randint(1, 4000, (batch, 31))
        ended = torch.cat([words, torch.full((batch, 1), 4095)], 1)  # pooled at the end-of-text token
        return (), {"input_ids": ended, "pixel_values": field(kind, batch, 3, 224, 224)}

    vision = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3}
    text = {**vision, "vocab_size": 4096, "eos_token_id": 4095}
    clip = {"text_config": text, "vision_config": {**vision, "patch_size": 32}, "projection_dim": 128}
    table: list[tuple[str, Callable[[], nn.Module], Inputs, bool]] = [
        ("bert", lambda: t.BertForMaskedLM(t.BertConfig(**bert)), ids, False),
        ("roberta", lambda: t.RobertaForMaskedLM(t.RobertaConfig(**bert)), ids, False),
        ("distilbert", lambda: t.DistilBertForMaskedLM(
            t.DistilBertConfig(vocab_size=4096, dim=256, hidden_dim=1024, n_layers=4, n_heads=8)), ids, False),
        ("electra", lambda: t.ElectraForPreTraining(
            t.ElectraConfig(**{**bert, "num_attention_heads": 4}, embedding_size=128)), ids, False),
        ("deberta", lambda: t.DebertaV2ForMaskedLM(t.DebertaV2Config(
            **{**bert, "num_hidden_layers": 2}, relative_attention=True, pos_att_type=["p2c", "c2p"])), ids, False),
        ("gpt2", lambda: t.GPT2LMHeadModel(
            t.GPT2Config(n_embd=256, n_layer=4, n_head=8, vocab_size=4096, use_cache=False)), ids, False),
        ("opt", lambda: t.OPTForCausalLM(t.OPTConfig(
            hidden_size=256, ffn_dim=1024, num_hidden_layers=4, num_attention_heads=8, vocab_size=4096,
            word_embed_proj_dim=256, use_cache=False)), ids, False),
        ("gptneox", lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**{**small, "intermediate_size": 1024})), ids, False),
        ("llama", lambda: t.LlamaForCausalLM(t.LlamaConfig(**grouped)), ids, False),
        ("mistral", lambda: t.MistralForCausalLM(t.MistralConfig(**grouped)), ids, False),
        ("qwen2", lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**grouped)), ids, False),
        ("qwen3", lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**grouped, head_dim=32)), ids, False),
        ("gemma", lambda: t.GemmaForCausalLM(
            t.GemmaConfig(**small, num_key_value_heads=1, head_dim=32)), ids, False),
        ("gemma3", lambda: t.Gemma3ForCausalLM(
            t.Gemma3TextConfig(**small, num_key_value_heads=1, head_dim=32)), ids, False),
        ("mixtral", lambda: t.MixtralForCausalLM(t.MixtralConfig(**grouped, num_local_experts=4)), ids, False),
        ("t5", lambda: t.T5ForConditionalGeneration(t.T5Config(
            vocab_size=4096, d_model=256, d_kv=32, d_ff=1024, num_layers=3, num_heads=8, use_cache=False)),
            pair, False),
        ("bart", lambda: t.BartForConditionalGeneration(t.BartConfig(
            vocab_size=4096, d_model=256, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=1024,
            decoder_ffn_dim=1024, encoder_attention_heads=8, decoder_attention_heads=8, use_cache=False)),
            pair, False),
        ("whisper", lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(
            vocab_size=4096, d_model=192, encoder_layers=2, decoder_layers=2, encoder_attention_heads=6,
            decoder_attention_heads=6, encoder_ffn_dim=768, decoder_ffn_dim=768, max_source_positions=300,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, use_cache=False)),
            speech, True),
        ("wav2vec2", lambda: t.Wav2Vec2ForCTC(t.Wav2Vec2Config(
            hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=6,
            conv_dim=(128,) * 7)), wave, True),
        ("vit", lambda: t.ViTForImageClassification(t.ViTConfig(**vision, patch_size=16)),
            images(224, name="pixel_values"), True),
        ("dinov2", lambda: t.Dinov2Model(t.Dinov2Config(
            hidden_size=192, num_hidden_layers=4, num_attention_heads=3, image_size=224)),
            images(224, name="pixel_values"), True),
        ("segformer", lambda: t.SegformerForSemanticSegmentation(t.SegformerConfig()),
            images(128, name="pixel_values"), True),
        ("clip", lambda: t.CLIPModel(t.CLIPConfig(**clip)), caption, True),
        ("mamba", lambda: t.MambaForCausalLM(t.MambaConfig(
            vocab_size=4096, hidden_size=256, num_hidden_layers=2, use_cache=False)), short, False),
        ("mamba2", lambda: t.Mamba2ForCausalLM(t.Mamba2Config(
            vocab_size=4096, hidden_size=256, num_hidden_layers=2, num_heads=8, head_dim=64, n_groups=1,
            chunk_size=16, use_cache=False)), short, False),
    ]  # fmt: skip
    return [Model(f"hf:{name}", f"hf:{name}", build, inputs, spatial) for name, build, inputs, spatial in table]


def models(patterns: list[str] | None = None) -> list[Model]:
    """All models whose package is installed and whose id matches one of the globs.

    Without globs: all but those of ``zoo_further.py``, which are held out and run where they are named.
    """
    import zoo_further as further

    found = []
    sources = {"own": own_models, "hf": transformers_models, "tv": torchvision_models, "timm": timm_models}
    if patterns:
        sources |= {
            "diffusers": further.diffusers_models, "smp": further.segmentation_models, "pyg": further.graph_models
        }  # fmt: skip
    for prefix, source in sources.items():
        if patterns and not any(fnmatchcase(f"{prefix}:", p.partition(":")[0] + ":") for p in patterns):
            continue  # not even imported
        try:
            found += source()
        except ImportError as missing:
            print(f"# {source.__name__}: left out ({missing})")
    return [m for m in found if not patterns or any(fnmatchcase(m.name, p) for p in patterns)]


_DECLARED: list[torch.library.Library] = []


def declare_missing_ops() -> None:
    """Where torchvision's compiled ops do not load, their schemas are declared, so that its models can be built."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # "operator torchvision::nms does not exist"
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)  # the schemas live as long as this
