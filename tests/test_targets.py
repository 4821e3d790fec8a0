from __future__ import annotations

from pathlib import Path

import pytest

from initcheck.targets import LibraryTarget, module_target


def test_a_library_target_has_a_name_and_options() -> None:
    target = LibraryTarget.parse("hf:llama?num_hidden_layers=4&hidden_act=gelu&tie_word_embeddings=true")
    assert target == LibraryTarget(
        "hf", "llama", {"num_hidden_layers": 4, "hidden_act": "gelu", "tie_word_embeddings": True}
    )


@pytest.mark.parametrize("text", ["model.py", "model.py:Net", "pkg.mod:make", "C:\\net.py", "./timm"])
def test_other_targets_are_left_to_others(text: str) -> None:
    assert LibraryTarget.parse(text) is None


@pytest.mark.parametrize("text", ["timm:", "hf:?x=1", "hf:gpt2?n_layer", "hf:gpt2?n layer=4"])
def test_malformed_library_targets_are_said(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        LibraryTarget.parse(text)


def test_a_module_is_found_without_executing_anything(tmp_path: Path) -> None:
    package = tmp_path / "src" / "pkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('executed')")
    (package / "net.py").write_text("raise SystemExit('executed')")
    assert module_target("pkg.net:Net(width=2)", tmp_path) == f"{package / 'net.py'}:Net(width=2)"
    assert module_target("pkg:make", tmp_path) == f"{package / '__init__.py'}:make"
    assert module_target("pkg/net.py", tmp_path) is None
    for absent in ("pkg.gone:Net", "gone.net:Net", "pkg.net.deeper:Net"):
        with pytest.raises(ValueError, match="there is no module"):
            module_target(absent, tmp_path)
