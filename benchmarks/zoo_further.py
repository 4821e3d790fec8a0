"""Models of packages that the predictor was not developed on: diffusers, segmentation_models_pytorch, torch_geometric.

Small configurations of each package's own classes, with random weights; images of 32 to 128 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from zoo import Arguments, Inputs, Model, declare_missing_ops, field, images

BLOCKS = (32, 64, 64, 64)


def diffusers_models() -> list[Model]:
    declare_missing_ops()
    import diffusers as d

    def noisy(channels: int, size: int, *context: int) -> Inputs:
        """An image, its step of the diffusion, and what it is conditioned on."""

        def make(batch: int, kind: str) -> Arguments:
            more = (torch.randn(batch, *context),) if context else ()
            return (field(kind, batch, channels, size, size), torch.full((batch,), 10), *more), {}

        return make

    def labelled(batch: int, kind: str) -> Arguments:
        steps, labels = torch.full((batch,), 10), torch.zeros(batch, dtype=torch.long)
        return (field(kind, batch, 4, 16, 16),), {"timestep": steps, "class_labels": labels}

    def prompted(batch: int, kind: str) -> Arguments:
        return (), {
            "hidden_states": torch.randn(batch, 64, 16),
            "encoder_hidden_states": torch.randn(batch, 8, 64),
            "pooled_projections": torch.randn(batch, 64),
            "timestep": torch.ones(batch),
            "img_ids": torch.zeros(64, 3),
            "txt_ids": torch.zeros(8, 3),
        }

    table: list[tuple[str, Callable[[], nn.Module], Inputs]] = [
        ("unet2d", lambda: d.UNet2DModel(sample_size=32, block_out_channels=BLOCKS), noisy(3, 32)),
        ("unet2dcond", lambda: d.UNet2DConditionModel(
            sample_size=32, block_out_channels=BLOCKS, cross_attention_dim=64, norm_num_groups=8,
            attention_head_dim=8), noisy(4, 32, 16, 64)),
        ("autoencoderkl", lambda: d.AutoencoderKL(
            block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8), images(64)),
        ("dit", lambda: d.DiTTransformer2DModel(
            num_attention_heads=4, attention_head_dim=32, in_channels=4, num_layers=4, sample_size=16,
            num_embeds_ada_norm=1000), labelled),
        ("flux", lambda: d.FluxTransformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=4,
            joint_attention_dim=64, pooled_projection_dim=64, axes_dims_rope=(8, 12, 12)), prompted),
    ]  # fmt: skip
    return [Model(f"diffusers:{n}", f"diffusers:{n}", build, inputs, n != "flux") for n, build, inputs in table]


def segmentation_models() -> list[Model]:
    declare_missing_ops()
    import segmentation_models_pytorch as smp

    names = [
        "Unet",
        "UnetPlusPlus",
        "MAnet",
        "Linknet",
        "FPN",
        "PSPNet",
        "PAN",
        "DeepLabV3",
        "DeepLabV3Plus",
        "UPerNet",
        "Segformer",
    ]

    def model(name: str) -> Model:
        def build() -> nn.Module:
            net: nn.Module = getattr(smp, name)("resnet18", encoder_weights=None)
            return net

        return Model(f"smp:{name}", f"smp:{name}", build, images(128), True)

    return [model(name) for name in names]


def graph_models() -> list[Model]:
    from torch_geometric.nn import models as graphs

    def random_graph(batch: int, kind: str) -> Arguments:
        nodes = 16 * batch
        return (torch.randn(nodes, 16), torch.randint(0, nodes, (2, 4 * nodes))), {}

    def model(name: str, **more: object) -> Model:
        def build() -> nn.Module:
            net: nn.Module = getattr(graphs, name)(16, 32, 3, 8, dropout=0.1, **more)
            return net

        return Model(f"pyg:{name}", f"pyg:{name}", build, random_graph)

    degrees = torch.ones(8, dtype=torch.long)
    mixed = model("PNA", aggregators=["mean", "max"], scalers=["identity"], deg=degrees)
    return [*(model(name) for name in ("GCN", "GAT", "GraphSAGE", "GIN")), mixed]
