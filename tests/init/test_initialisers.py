"""Each initialiser's defining property, on shapes that real layers have."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from initcheck import init

SEEDED = [
    "lecun_normal_",
    "lecun_uniform_",
    "glorot_normal_",
    "glorot_uniform_",
    "he_normal_",
    "he_uniform_",
    "variance_scaling_",
    "orthogonal_",
    "siren_",
    "sparse_",
    "looks_linear_",
    "random_walk_",
    "ds_init_",
    "deepnorm_",
    "subln_",
]
LAYERED = ("ds_init_", "deepnorm_", "subln_")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_everything_exported_can_be_had():
    for name in init.__all__:
        assert getattr(init, name) is not None
    assert callable(init.gain)  # the function, although a submodule has the same name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = init.nothing


@pytest.mark.parametrize("name", SEEDED)
def test_conventions_of_torch_nn_init(name):
    """In place, the tensor returned, a generator decides the values, gradients are not recorded."""
    function = getattr(init, name)
    arguments = (3,) if name in LAYERED else ()
    tensor = nn.Parameter(torch.full((64, 48), 7.0))
    assert function(tensor, *arguments, generator=seeded()) is tensor
    assert tensor.grad_fn is None
    assert tensor.requires_grad
    again = function(torch.empty(64, 48), *arguments, generator=seeded())
    assert torch.equal(tensor, again)
    other = function(torch.empty(64, 48), *arguments, generator=seeded(1))
    assert not torch.equal(tensor, other)
    assert abs(float(tensor.detach().mean())) < 0.1


@pytest.mark.parametrize("name", SEEDED)
def test_meta_is_a_logged_no_op(name, caplog):
    tensor = torch.empty(8, 4, device="meta")
    with caplog.at_level(logging.INFO, "initcheck.init"):
        arguments = (3,) if name in LAYERED else ()
        assert getattr(init, name)(tensor, *arguments) is tensor
    assert "meta tensor" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SEEDED)
def test_low_precision_is_drawn_in_float32_and_rounded(name, dtype):
    arguments = (3,) if name in LAYERED else ()
    function = getattr(init, name)
    low = function(torch.empty(64, 48, dtype=dtype), *arguments, generator=seeded())
    full = function(torch.empty(64, 48), *arguments, generator=seeded())
    assert low.dtype == dtype
    assert torch.equal(low, full.to(dtype))


@pytest.mark.parametrize("name", SEEDED)
def test_float64(name):
    tensor = getattr(init, name)(torch.empty(32, 32, dtype=torch.float64), *((3,) if name in LAYERED else ()))
    assert tensor.dtype == torch.float64
    assert bool(tensor.isfinite().all())


@pytest.fixture
def mesh(tmp_path):
    """One process that calls itself a mesh."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_distributed_tensors_get_the_values_of_the_whole(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    def sharded(*shape, dim=0):
        return distribute_tensor(torch.full(shape, 7.0), mesh, [Shard(dim)])

    for name in SEEDED:
        arguments = (3,) if name in LAYERED else ()
        tensor = sharded(64, 48, dim=1)
        assert getattr(init, name)(tensor, *arguments, generator=seeded()) is tensor
        alone = getattr(init, name)(torch.empty(64, 48), *arguments, generator=seeded())
        assert torch.equal(tensor.full_tensor(), alone), name
    assert torch.equal(init.forget_gate_bias_(sharded(8)).full_tensor(), torch.tensor([7.0, 7, 1, 1, 7, 7, 7, 7]))
    assert torch.equal(init.irnn_(sharded(4, 4), 0.5).full_tensor(), 0.5 * torch.eye(4))
    assert torch.equal(init.prior_bias_(sharded(4), 0.5).full_tensor(), torch.zeros(4))
    square = init.unitary_(sharded(6, 6), generator=seeded()).full_tensor()
    assert torch.allclose(square @ square.T, torch.eye(6), atol=1e-5)


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"expected a floating-point or complex tensor, got torch\.int64"):
        init.lecun_normal_(torch.zeros(3, 3, dtype=torch.int64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", SEEDED)
def test_on_a_gpu(name):
    arguments = (3,) if name in LAYERED else ()
    tensor = getattr(init, name)(torch.empty(64, 48, device="cuda"), *arguments, generator=seeded())  # drawn on the CPU
    assert torch.allclose(tensor.cpu(), getattr(init, name)(torch.empty(64, 48), *arguments, generator=seeded()))
    assert bool(getattr(init, name)(tensor, *arguments).isfinite().all())


def test_anything_but_a_tensor_is_refused():
    with pytest.raises(TypeError, match="variance_scaling_: expected a tensor, got Linear"):
        init.lecun_normal_(nn.Linear(2, 2))


@given(
    scale=st.floats(0.1, 4),
    mode=st.sampled_from(["fan_in", "fan_out", "fan_avg", "geometric"]),
    kind=st.sampled_from(["normal", "uniform", "truncated_normal"]),
)
@settings(max_examples=30, deadline=None)
def test_variance_scaling_has_the_variance_it_says(scale, mode, kind):
    weight = init.variance_scaling_(torch.empty(300, 500), scale, mode, kind, generator=seeded())
    fan = {"fan_in": 500, "fan_out": 300, "fan_avg": 400, "geometric": math.sqrt(150_000)}[mode]
    assert float(weight.var()) * fan / scale == pytest.approx(1, abs=0.02)
    if kind == "uniform":
        assert float(weight.abs().max()) <= math.sqrt(3 * scale / fan) * (1 + 1e-6)
    if kind == "truncated_normal":
        assert float(weight.abs().max()) <= 2 / 0.8796 * math.sqrt(scale / fan)


FORWARD_LAYERS = {
    "linear": (lambda: nn.Linear(256, 200, bias=False), (64, 256), {}),
    "conv": (lambda: nn.Conv2d(32, 64, 3, padding=1, padding_mode="circular", bias=False), (4, 32, 16, 16), {}),
    "grouped": (
        lambda: nn.Conv2d(32, 64, 3, padding=1, padding_mode="circular", groups=8, bias=False), (4, 32, 16, 16),
        {"groups": 8},
    ),
    "strided": (lambda: nn.Conv1d(64, 64, 4, stride=4, bias=False), (16, 64, 64), {"stride": 4}),
    "transposed": (
        lambda: nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False), (4, 64, 32, 32),
        {"transposed": True, "stride": 2},
    ),
    "transposed grouped": (
        lambda: nn.ConvTranspose1d(64, 32, 4, stride=2, padding=1, groups=4, bias=False), (8, 64, 512),
        {"transposed": True, "stride": 2, "groups": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARD_LAYERS)
def test_effective_fans_keep_the_variance_of_real_layers(name):
    """fan_in: outputs have unit variance. fan_out: so does the gradient at the input."""
    make, shape, layout = FORWARD_LAYERS[name]
    layer = make()
    x = torch.randn(shape, generator=seeded(), requires_grad=True)
    init.lecun_normal_(layer.weight, generator=seeded(1), **layout)
    assert float(layer(x).var()) == pytest.approx(1, abs=0.12)
    init.variance_scaling_(layer.weight, 1.0, "fan_out", generator=seeded(2), **layout)
    output = layer(x)
    output.backward(torch.randn(output.shape, generator=seeded(3)))
    assert x.grad is not None
    assert float(x.grad.var()) == pytest.approx(1, abs=0.12)
    assert init.fans_of(layer) == init.effective_fans(layer.weight.shape, **layout)


def test_packed_projection():
    packed = init.glorot_normal_(torch.empty(3 * 128, 128), packed=3, generator=seeded())
    assert float(packed.var()) * 128 == pytest.approx(1, abs=0.03)
    with pytest.raises(ValueError, match="packed=5 does not divide"):
        init.effective_fans((12, 4), packed=5)


def test_fans_say_what_is_wrong():
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        init.effective_fans((3,))
    with pytest.raises(ValueError, match="groups=3 does not divide"):
        init.effective_fans((4, 2, 3, 3), groups=3)
    with pytest.raises(ValueError, match="mode must be one of fan_in, fan_out, fan_avg, geometric"):
        init.variance_scaling_(torch.empty(2, 2), mode="fan")
    with pytest.raises(ValueError, match="scale must be positive"):
        init.variance_scaling_(torch.empty(2, 2), scale=-1)
    with pytest.raises(ValueError, match="expected a tensor with 2 or more dimensions"):
        init.lecun_normal_(torch.empty(3))


@pytest.mark.parametrize("activation", ["gelu", "silu", "mish", "elu", "tanh", "softplus", "lecun_tanh", nn.GELU()])
def test_he_keeps_the_second_moment_through_any_activation(activation):
    weight = init.he_normal_(torch.empty(1000, 1000), activation, generator=seeded())
    function = activation if isinstance(activation, nn.Module) else _function(activation)
    hidden = function(torch.randn(500, 1000, generator=seeded(1)))
    assert float((hidden @ weight.T).square().mean()) == pytest.approx(1, abs=0.1)


def _function(name):
    return {"lecun_tanh": lambda x: 1.7159 * torch.tanh(2 * x / 3)}.get(name) or getattr(F, name)


@pytest.mark.parametrize("method", ["qr", "polar", "svd"])
@pytest.mark.parametrize("shape", [(32, 32), (16, 40), (40, 16), (24, 8, 3, 3), (8, 64, 3, 3)])
def test_orthogonal(method, shape):
    weight = init.orthogonal_(torch.empty(shape, dtype=torch.float64), 1.5, method, generator=seeded()).flatten(1)
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    assert torch.allclose(gram, 2.25 * torch.eye(len(gram), dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("method", ["qr", "polar", "svd"])
def test_orthogonal_to_the_last_digits_of_float32(method):
    """A square Gaussian is ill-conditioned: forming XᵀX would leave an error of 3e-4."""
    weight = init.orthogonal_(torch.empty(400, 400), method=method, generator=seeded())
    assert float((weight @ weight.T - torch.eye(400)).abs().max()) < 5e-6


def test_polar_is_the_nearest_orthogonal_matrix():
    x = torch.randn(6, 6, dtype=torch.float64, generator=seeded())
    values, vectors = torch.linalg.eigh(x @ x.T)
    nearest = vectors @ torch.diag(values.rsqrt()) @ vectors.T @ x  # (XXᵀ)^-½ X
    assert torch.allclose(
        init.orthogonal_(torch.empty(6, 6, dtype=torch.float64), method="polar", generator=seeded()), nearest
    )


def test_orthogonal_by_qr_is_uniform_over_orthogonal_matrices():
    """Without the sign correction QR's diagonal is biased: its mean trace is far from 0 (Mezzadri 2007)."""
    generator = seeded()
    traces = [float(init.orthogonal_(torch.empty(6, 6), generator=generator).trace()) for _ in range(2000)]
    mean = sum(traces) / len(traces)
    assert abs(mean) < 0.1
    assert sum(t * t for t in traces) / len(traces) == pytest.approx(1, abs=0.15)  # Haar: E[tr²] = 1


def test_orthogonal_refuses():
    with pytest.raises(ValueError, match="method must be 'qr', 'polar' or 'svd'"):
        init.orthogonal_(torch.empty(3, 3), method="lu")
    with pytest.raises(ValueError, match="2 or more dimensions"):
        init.orthogonal_(torch.empty(3))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_delta_orthogonal_keeps_every_norm(dims):
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][dims - 1](8, 12, 3, padding=1, padding_mode="circular", bias=False)
    init.delta_orthogonal_(conv.weight, generator=seeded())
    x = torch.randn(2, 8, *[6] * dims)
    assert torch.allclose(conv(x).norm(dim=1), x.norm(dim=1), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4), (6, 3, 3, 3)])
def test_centred_orthogonal_rows_sum_to_zero_and_keep_norms(shape):
    weight = init.centred_orthogonal_(torch.empty(shape, dtype=torch.float64), gain=2.0, generator=seeded()).flatten(1)
    rows, columns = weight.shape
    assert float(weight.sum(1).abs().max()) < 1e-12
    assert float(weight.square().mean()) == pytest.approx(4.0 / max(rows, columns), rel=0.15)
    singular = torch.linalg.svdvals(weight)
    kept = singular[: min(rows, columns - 1)]
    if rows < columns:
        assert float(kept.max() / kept.min()) < 1.0 + 1e-9


def test_centred_orthogonal_refuses_rows_of_one_element():
    with pytest.raises(ValueError, match="cannot sum to zero"):
        init.centred_orthogonal_(torch.empty(8, 1))


def test_delta_orthogonal_refuses():
    with pytest.raises(ValueError, match=r"at least as many output as input channels, got 4 < 8"):
        init.delta_orthogonal_(torch.empty(4, 8, 3, 3))
    with pytest.raises(ValueError, match="3 to 5 dimensions"):
        init.delta_orthogonal_(torch.empty(8, 8))


def test_unitary():
    u = init.unitary_(torch.empty(12, 12, dtype=torch.complex128), generator=seeded())
    assert torch.allclose(u @ u.mH, torch.eye(12, dtype=torch.complex128), atol=1e-10)
    real = init.unitary_(torch.empty(12, 12, dtype=torch.float64), generator=seeded())
    assert torch.allclose(real @ real.T, torch.eye(12, dtype=torch.float64), atol=1e-10)
    h = torch.randn(6, dtype=torch.complex128)
    block = torch.complex(real[:6, :6], real[6:, :6])
    assert torch.allclose(real @ torch.cat([h.real, h.imag]), torch.cat([(block @ h).real, (block @ h).imag]))
    with pytest.raises(ValueError, match="even size, got 5"):
        init.unitary_(torch.empty(5, 5))
    with pytest.raises(ValueError, match="square"):
        init.unitary_(torch.empty(4, 6))


def test_irnn_remembers():
    net = nn.RNN(3, 16, nonlinearity="relu")
    init.irnn_(net, generator=seeded())
    start = torch.rand(1, 2, 16)
    _, end = net(torch.zeros(100, 2, 3), start)
    assert torch.allclose(start, end)
    with pytest.raises(ValueError, match="needs nonlinearity='relu'"):
        init.irnn_(nn.RNN(3, 4))
    with pytest.raises(TypeError, match="got LSTM"):
        init.irnn_(nn.LSTM(3, 4))
    with pytest.raises(ValueError, match="square"):
        init.irnn_(torch.empty(3, 4))


def test_forget_gate_bias_is_one_once():
    net = nn.LSTM(4, 8, num_layers=2, bidirectional=True)
    before = {name: p.clone() for name, p in net.named_parameters()}
    init.forget_gate_bias_(net, 1.0)
    for suffix in ("l0", "l1", "l0_reverse", "l1_reverse"):
        total = getattr(net, f"bias_ih_{suffix}") + getattr(net, f"bias_hh_{suffix}")
        assert torch.equal(total[8:16], torch.ones(8))
        old = before[f"bias_ih_{suffix}"] + before[f"bias_hh_{suffix}"]
        assert torch.equal(total[:8], old[:8])
        assert torch.equal(total[16:], old[16:])
    assert all(torch.equal(before[n], p) for n, p in net.named_parameters() if n.startswith("weight"))
    with pytest.raises(ValueError, match="bias=False"):
        init.forget_gate_bias_(nn.LSTM(2, 2, bias=False))
    with pytest.raises(TypeError, match="got GRU"):
        init.forget_gate_bias_(nn.GRU(2, 2))
    with pytest.raises(ValueError, match="4·hidden elements, got 6"):
        init.forget_gate_bias_(torch.empty(6))


def test_prior_bias_answers_the_prior():
    assert torch.allclose(init.prior_bias_(torch.empty(5), 0.01).sigmoid(), torch.tensor(0.01))
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        init.prior_bias_(torch.empty(5), 1)
    assert torch.equal(init.positive_bias_(torch.empty(3)), torch.full((3,), 0.1))
    with pytest.raises(ValueError, match="positive"):
        init.positive_bias_(torch.empty(3), -0.1)


@pytest.mark.parametrize(("shape", "transposed"), [((40, 100), False), ((100, 40), True), ((40, 8, 3, 3), False)])
def test_sparse_gives_every_unit_the_same_number_of_inputs(shape, transposed):
    weight = init.sparse_(torch.empty(shape), 15, transposed=transposed, generator=seeded())
    units = weight.t() if transposed else weight.flatten(1)
    assert (units != 0).sum(1).tolist() == [15] * 40
    assert float(units[units != 0].std()) == pytest.approx(1, abs=0.1)
    assert int((init.sparse_(torch.empty(4, 6), 15) != 0).sum()) == 24


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_random_walk_keeps_the_log_norm_over_200_layers(activation):
    """He's gain lets the log-norm of a 200-layer net of width 100 drift by -2 on average; this one keeps it."""
    function = F.relu if activation == "relu" else (lambda x: x)

    def drift(fill):
        generator, total = seeded(), 0.0
        for _ in range(8):
            x = torch.randn(100, dtype=torch.float64, generator=generator)
            start = x.norm().log()
            for _ in range(200):
                x = fill(torch.empty(100, 100, dtype=torch.float64), generator) @ function(x)
            total += float(x.norm().log() - start) / 8
        return total

    walk = drift(lambda w, g: init.random_walk_(w, activation, generator=g))
    he = drift(lambda w, g: init.he_normal_(w, "relu" if activation == "relu" else "identity", generator=g))
    assert abs(walk) < 0.8
    assert he < walk - 0.5


def test_looks_linear_is_linear():
    generator = seeded()
    layers = [
        nn.Linear(8, 16, bias=False),
        *[nn.Linear(16, 16, bias=False) for _ in range(10)],
        nn.Linear(16, 8, False),
    ]
    for index, layer in enumerate(layers):
        position = "first" if index == 0 else "last" if index == 11 else "hidden"
        init.looks_linear_(layer.weight, position, generator=generator)
    net = nn.Sequential(*[m for layer in layers[:-1] for m in (layer, nn.ReLU())], layers[-1])
    x, y = torch.randn(5, 8), torch.randn(5, 8)
    assert torch.allclose(net(x + y), net(x) + net(y), atol=1e-5)
    assert torch.allclose(net(x).norm(dim=1), x.norm(dim=1), atol=1e-4)  # 12 layers, and every norm is kept
    with pytest.raises(ValueError, match="even number of outputs, got 7"):
        init.looks_linear_(torch.empty(7, 4))
    with pytest.raises(ValueError, match="position must be"):
        init.looks_linear_(torch.empty(4, 4), "middle")


def test_siren_feeds_every_sine_a_standard_normal():
    generator = seeded()
    x = torch.rand(2000, 2, generator=generator) * 2 - 1
    first = init.siren_(torch.empty(256, 2), first=True, generator=generator)
    assert float(first.abs().max()) <= 0.5
    h = torch.sin(30 * x @ first.T)
    for _ in range(4):
        weight = init.siren_(torch.empty(256, 256), 30.0, generator=generator)
        pre = 30 * h @ weight.T
        h = torch.sin(pre)
        assert float(pre.std()) == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="omega must be positive"):
        init.siren_(torch.empty(2, 2), 0)


def test_depth_recipes():
    assert float(init.depth_scaled_normal_(torch.empty(500, 500), 12, generator=seeded()).std()) == pytest.approx(
        0.02 / math.sqrt(24), rel=0.01
    )
    one = init.deepnorm_constants(6)
    assert (one.alpha, one.beta) == (pytest.approx(12**0.25), pytest.approx(48**-0.25))
    both = init.deepnorm_constants(6, 6)
    assert both.alpha == pytest.approx(1.417938140685523)
    assert both.beta == pytest.approx(0.49698924077132345)
    assert init.deepnorm_constants(6, 6, part="decoder").alpha == pytest.approx(18**0.25)
    scales = init.t_fixup_scales(512, 6, 6)
    assert scales.encoder == pytest.approx(0.67 * 6**-0.25)
    assert scales.decoder == pytest.approx(54**-0.25)
    assert scales.embedding_std == pytest.approx(512**-0.5 * 54**-0.25)
    assert init.subln_gain(6) == pytest.approx(math.sqrt(math.log(12)))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        init.deepnorm_constants(0)


def test_deepnorm_and_subln_scale_glorot():
    for function, gain in ((init.deepnorm_, 48**-0.25), (init.subln_, math.sqrt(math.log(12)))):
        weight = function(torch.empty(600, 400), 6, generator=seeded())
        assert float(weight.std()) == pytest.approx(gain * math.sqrt(2 / 1000), rel=0.01)
    packed = init.deepnorm_(torch.empty(3 * 200, 200), 6, packed=3, generator=seeded())
    assert float(packed.std()) == pytest.approx(48**-0.25 * 200**-0.5, rel=0.01)


def test_branch_multipliers():
    assert float(init.rezero_(torch.ones(1))) == 0
    assert float(init.skipinit_(torch.ones(()))) == 0
    assert float(init.skipinit_(torch.ones(1), 16)) == 0.25
    with pytest.raises(ValueError, match=r"rezero_: a branch's multiplier is one number, got shape \(8,\)"):
        init.rezero_(torch.ones(8))


def test_mup_std():
    assert init.mup_std((512, 512), (128, 128), 0.08) == pytest.approx(0.04)
    assert init.mup_std((10, 512), (10, 128), 0.08) == pytest.approx(0.02)
    assert init.mup_std((512, 20), (128, 20), 0.08) == 0.08
    weight = init.mup_normal_(torch.empty(512, 512), (128, 128), 0.08, generator=seeded())
    assert float(weight.std()) == pytest.approx(0.04, rel=0.02)
