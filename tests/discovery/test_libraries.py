"""Models by their libraries' names: built from configurations, with inputs from the ordinary search."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from initcheck.config import Config, InputSpec, ModelSpec
from initcheck.discovery.inputs import find_inputs
from initcheck.discovery.libraries import UnknownTargetError, library_candidates
from initcheck.tracing.build import build
from initcheck.tracing.ladder import Trial


def test_a_timm_model_with_options_and_its_own_input_size() -> None:
    (candidate,) = library_candidates("timm:vit_tiny_patch16_224?num_classes=10", Config())
    built = build(candidate.construct)
    assert built.model.head.out_features == 10
    found = find_inputs(built.model, candidate, Trial(built.model))
    assert found.args[0].shape[1:] == (3, 224, 224)
    assert candidate.how == "timm.create_model('vit_tiny_patch16_224', num_classes=10)"


def test_a_pattern_names_several_models() -> None:
    names = [candidate.name for candidate in library_candidates("timm:vgg1[13]", Config())]
    assert names == ["timm:vgg11", "timm:vgg13"]


@pytest.mark.parametrize(
    ("target", "cls"),
    [
        ("hf:gpt2?n_layer=2", "GPT2LMHeadModel"),
        ("hf:vit_mae?num_hidden_layers=1", "ViTMAEForPreTraining"),
        ("hf:BertForSequenceClassification?num_hidden_layers=1", "BertForSequenceClassification"),
    ],
)
def test_a_transformers_model_by_type_or_class(target: str, cls: str) -> None:
    (candidate,) = library_candidates(target, Config())
    assert type(build(candidate.construct).model).__name__ == cls
    assert candidate.how.startswith(f"{cls}(")


def test_a_configuration_file_names_its_architecture(tmp_path: Path) -> None:
    transformers.GPT2Config(n_layer=3, n_embd=24, n_head=2, architectures=["GPT2Model"]).save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        (candidate,) = library_candidates(f"hf:{path}?n_head=4", Config())
        model = build(candidate.construct).model
        assert type(model).__name__ == "GPT2Model"
        assert (len(model.h), model.config.n_head) == (3, 4)


def test_inputs_of_the_command_line_are_used() -> None:
    spec = ModelSpec("hf:gpt2?n_layer=1", "hf:gpt2?n_layer=1", inputs=(InputSpec("int64", (2, 7), 50257),))
    (candidate,) = library_candidates(spec.path, Config(models=(spec,)))
    built = build(candidate.construct)
    assert find_inputs(built.model, candidate, Trial(built.model)).args[0].shape == (2, 7)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("timm:resnet5", "timm has no model 'resnet5'; near it are resnet50"),
        ("timm:nothing*", "timm has no model 'nothing*'"),
        ("hf:gpt3", "no model type 'gpt3'; near it are"),
        ("hf:openai/gpt3", "the network is not used"),
        ("hf:llama?num_layer=4", "LlamaConfig has no 'num_layer'; near it are num_hidden_layers"),
    ],
)
def test_what_there_is_not_is_said_with_what_is_near(target: str, says: str) -> None:
    with pytest.raises(UnknownTargetError) as caught:
        library_candidates(target, Config())
    assert says in str(caught.value)
