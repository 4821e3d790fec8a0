"""Model rules with the init log: what they find, at which line, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from filed import audit_text, line_of

DECODER = """
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [64, 32, 16, 8]
            self.ups = nn.ModuleList([nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in zip(sizes, sizes[1:])])
            self.norms = nn.ModuleList([{norm} for b in sizes[1:]])
            for m in self.modules():
                if isinstance(m, nn.ConvTranspose2d):
                    {call}

        def forward(self, x):
            for up, norm in zip(self.ups, self.norms):
                x = torch.relu(norm(up(x)))
            return x

    model = Decoder()
    y = model(torch.randn(4, 64, 4, 4))
"""

BLOCKS = """
    class Block(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

        def forward(self, x):
            return x + self.down(torch.relu(self.up(self.norm(x))))

    class Net(nn.Module):
        def __init__(self, depth=9, d=32):
            super().__init__()
            self.blocks = nn.Sequential(*[Block(d) for _ in range(depth)])
            self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 8)
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=0.06)
                if {test}:
                    nn.init.normal_(p, std=0.06 / math.sqrt(depth))

        def forward(self, x):
            return self.head(self.norm(self.blocks(x)))

    model = Net()
    y = model(torch.randn(8, 16, 32))
"""

MIXER = """
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(32, 64), nn.Linear(64, 10)
            {call}

        def forward(self, x):
            return self.head(torch.relu(self.first(x)))

    model = Mixer()
    y = model(torch.randn(16, 32))
"""

GATED = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.branch, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)
            self.gate = nn.Parameter(torch.zeros(1), requires_grad={trained})

        def forward(self, x):
            x = torch.relu(self.fc(x))
            return self.head(x + self.gate * torch.tanh(self.branch(x)))

    model = Net()
    y = model(torch.randn(16, 32))
"""

SCORES = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(32, 64), nn.Linear(64, 10)
            {call}

        def forward(self, x):
            return {out}

    model = Net()
    loss = F.{loss}(model(torch.randn(16, 32)), torch.zeros(16, 10))
"""

MEMORY = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.{kind}(16, 32, num_layers=2, batch_first=True), nn.Linear(32, 10)
            for name, p in self.rnn.named_parameters():
                if {test}:
                    {call}

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    model = Net()
    y = model(torch.randn(8, 20, 16))
"""

HANDED = """
    class Net(nn.Module):
        def __init__(self, features):
            super().__init__()
            {before}
            for m in self.modules():
                if isinstance(m, nn.Linear):
                    nn.init.kaiming_normal_(m.weight)
                    nn.init.zeros_(m.bias)
            {after}

        def forward(self, x):
            return self.features(x)

    model = Net(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)))
    y = model(torch.randn(8, 32))
    """

FOUND = {
    "IC705 a frozen zero": (
        GATED.format(trained="False"),
        ("IC705", "error", "self.fc, self.branch, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)"),
    ),
    "IC602 relu on logits": (
        SCORES.format(call="pass", out="torch.relu(self.head(torch.relu(self.fc(x))))", loss="cross_entropy"),
        ("IC602", "warning", "return torch.relu(self.head(torch.relu(self.fc(x))))"),
    ),
    "IC603 a bias far below zero": (
        SCORES.format(
            call="nn.init.constant_(self.fc.bias, -2.0)", out="self.head(torch.relu(self.fc(x)))", loss="l1_loss"
        ),
        ("IC603", "warning", "nn.init.constant_(self.fc.bias, -2.0)"),
    ),
    "IC603 dead units beside a living stream": (
        SCORES.format(
            call="nn.init.constant_(self.fc.bias, -10.0)",
            out="self.head(torch.relu(self.fc(x)) + x.repeat(1, 2))",
            loss="l1_loss",
        ),
        ("IC603", "warning", "nn.init.constant_(self.fc.bias, -10.0)"),
    ),
    "IC208 a wide head": (
        SCORES.format(
            call="nn.init.normal_(self.head.weight, std=3)",
            out="self.head(torch.relu(self.fc(x)))",
            loss="cross_entropy",
        ),
        ("IC208", "warning", "nn.init.normal_(self.head.weight, std=3)"),
    ),
    "IC501 the first layer only": (
        MEMORY.format(kind="LSTM", test="name == 'bias_hh_l0'", call="p.data[32:64].fill_(1.0)"),
        ("IC501", "warning", "p.data[32:64].fill_(1.0)"),
    ),
    "IC502 a state that grows": (
        MEMORY.format(kind="RNN", test="'weight_hh' in name", call="nn.init.normal_(p, std=1.0)"),
        ("IC502", "warning", "nn.init.normal_(p, std=1.0)"),
    ),
    "IC302 three layers at the wrong scale": (
        DECODER.format(norm="nn.Identity()", call="nn.init.kaiming_normal_(m.weight)"),
        ("IC302", "warning", "nn.init.kaiming_normal_(m.weight)"),
    ),
    "IC302 whoever names the mode has thought of the axis": (
        DECODER.format(norm="nn.Identity()", call="nn.init.kaiming_normal_(m.weight, mode='fan_out')"),
        ("IC302", "info", "nn.init.kaiming_normal_(m.weight, mode='fan_out')"),
    ),
    "IC305 uniform from zero": (
        MIXER.format(call="nn.init.uniform_(self.first.weight, 0, 0.2)"),
        ("IC305", "warning", "nn.init.uniform_(self.first.weight, 0, 0.2)"),
    ),
    "IC403 the wrong matrix": (
        BLOCKS.format(test="name.endswith('up.weight')"),
        ("IC403", "warning", "if name.endswith('up.weight'):"),
    ),
    "IC106 layers that are handed over": (
        HANDED.format(before="pass", after="self.features = features"),
        ("IC106", "error", "for m in self.modules():"),
    ),
    "IC105 a slip of the pen": (
        BLOCKS.format(test="'dwon.weight' in name"),
        ("IC105", "error", "if 'dwon.weight' in name:"),
    ),
}

QUIET = {
    "a norm behind each": DECODER.format(norm="nn.BatchNorm2d(b)", call="nn.init.kaiming_normal_(m.weight)"),
    "DCGAN's std": DECODER.format(norm="nn.Identity()", call="nn.init.normal_(m.weight, 0, 0.05)"),
    "layers that are handed over in time": HANDED.format(before="self.features = features", after="pass"),
    "branch ends": BLOCKS.format(test="name.endswith('down.weight')"),
    "a gate that is trained": GATED.format(trained="True"),
    "relu on what is measured": SCORES.format(
        call="pass", out="torch.relu(self.head(torch.relu(self.fc(x))))", loss="l1_loss"
    ),
    "a small negative bias": SCORES.format(
        call="nn.init.constant_(self.fc.bias, -0.1)", out="self.head(torch.relu(self.fc(x)))", loss="l1_loss"
    ),
    "a wide head of a regression": SCORES.format(
        call="nn.init.normal_(self.head.weight, std=3)", out="self.head(torch.relu(self.fc(x)))", loss="l1_loss"
    ),
    "a forget-gate bias in every layer": MEMORY.format(
        kind="LSTM", test="'bias_hh' in name", call="p.data[32:64].fill_(1.0)"
    ),
    "an orthogonal state": MEMORY.format(kind="RNN", test="'weight_hh' in name", call="nn.init.orthogonal_(p)"),
    "Xavier on a GRU": MEMORY.format(kind="GRU", test="'weight' in name", call="nn.init.xavier_uniform_(p)"),
    "centred": MIXER.format(call="nn.init.uniform_(self.first.weight, -0.2, 0.2)"),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_once_at_its_line(name: str, tmp_path: Path) -> None:
    text, expected = FOUND[name]
    findings = audit_text(text, tmp_path)
    assert [(f.code, f.severity.label, line_of(f)) for f in findings] == [expected]


@pytest.mark.parametrize("name", QUIET)
def test_stays_quiet(name: str, tmp_path: Path) -> None:
    assert audit_text(QUIET[name], tmp_path) == []


def test_stds_by_shape_are_no_depth_scaling(tmp_path: Path) -> None:
    """He's fan-out rule gives two kinds of layers stds in the ratio 1/sqrt(9), as nine branches would (mobilenetv5)."""
    text = BLOCKS.replace("2 * d", "9 * d").replace("std=0.06", "std=p.shape[0] ** -0.5").format(test="False")
    assert "IC403" not in {f.code for f in audit_text(text, tmp_path)}


def test_embeddings_at_the_plain_std_do_not_hide_the_branch_ends(tmp_path: Path) -> None:
    """The embedding comes first, by a call of its own at the same std as the layers (minGPT)."""
    text = BLOCKS.replace(
        "        super().__init__()\n            self.blocks",
        "        super().__init__()\n            self.tokens = nn.Embedding(16, 32)\n            self.blocks",
    ).replace(
        "\n        def forward(self, x):\n            return self.head",
        "            nn.init.normal_(self.tokens.weight, std=0.06)\n\n"
        "        def forward(self, x):\n            return self.head",
    )
    assert text.count("self.tokens") == 2
    found = audit_text(text.format(test="name.endswith('up.weight')"), tmp_path)
    assert "IC403" in {f.code for f in found}
