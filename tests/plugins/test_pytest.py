import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from initcheck.plugins.pytest import assert_healthy  # noqa: E402


def mlp(std: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(100, 100), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, std=std)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers)


def test_a_healthy_model_passes_and_gives_its_report():
    report = assert_healthy(mlp((2 / 100) ** 0.5), torch.randn(16, 100))
    assert len(report.layers) == 30


def test_a_vanishing_one_fails_with_the_evidence():
    with pytest.raises(AssertionError, match=r"IC20[24]") as caught:
        assert_healthy(mlp(0.01), torch.randn(16, 100))
    assert "Sequential" in str(caught.value)


def test_ignored_codes_do_not_count():
    assert_healthy(mlp(0.01), torch.randn(16, 100), ignore=["IC2"])


def test_an_unknown_severity_is_an_error():
    with pytest.raises(ValueError, match="unknown severity"):
        assert_healthy(mlp(0.1), torch.randn(16, 100), fail_on="loud")
