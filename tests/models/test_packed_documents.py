"""Models that keep packed documents apart, and models that do not: those are refused by name."""

from types import SimpleNamespace

import ppo_tiny as tiny
import pytest
import torch
from gpt_tiny import MODERN
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, MambaConfig, OPTConfig

from alignment.errors import UserError
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.models.packed_documents import keeps_documents_apart
from alignment.stages import pretrain, sft
from alignment.stages.shared.lora import ModelArguments

SMALL = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MIXING = {
    "opt": OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32),
    "bloom": BloomConfig(**SMALL),
    "falcon": FalconConfig(**SMALL),
    "mamba": MambaConfig(vocab_size=30, hidden_size=32, num_hidden_layers=2),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_models_that_read_position_ids_keep_documents_apart(attention):
    ours = GPTForCausalLM(GPTConfig(**MODERN, attn_implementation=attention))
    for model in (ours, tiny.model("llama"), tiny.model("gpt2")):
        model.set_attn_implementation(attention)
        assert keeps_documents_apart(model)
        assert model.training is not model.eval().training  # left as it was


class Leaky(torch.nn.Module):
    """Says 1 or 0 for every token, and more by `leak` where the first tokens are not the ones first seen."""

    device = torch.device("cpu")
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=30))

    def __init__(self, leak: float):
        super().__init__()
        self.leak, self.first = leak, None

    def forward(self, input_ids, **options):
        self.first = input_ids[:, 0] if self.first is None else self.first
        row = torch.tensor([1.0, 0.0]) + self.leak * (input_ids[:, :1] != self.first)
        return SimpleNamespace(logits=row.expand(1, input_ids.shape[1], 2))


def test_rounding_is_no_reading_of_another_document():
    assert keeps_documents_apart(Leaky(1e-6)) and not keeps_documents_apart(Leaky(1e-4))


@pytest.mark.parametrize("name", MIXING)
def test_models_that_do_not_are_told(name):
    torch.manual_seed(0)
    assert not keeps_documents_apart(AutoModelForCausalLM.from_config(MIXING[name]))


def test_the_stages_refuse_them_before_anything_runs(tmp_path):
    tokenizer = tiny.tokenizer()
    for name, model in {"opt": AutoModelForCausalLM.from_config(MIXING["opt"]), "llama": tiny.model()}.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    recipe = {"output_dir": str(tmp_path / "out"), "bf16": False, "use_cpu": True, "max_length": 64}
    recipe["assistant_only_loss"] = False  # the tiny template has no generation markers
    for options in ({"packing": True}, {"padding_free": True}):
        args = sft.SFTRecipe(**recipe, **options)
        sft.check(args, None, ModelArguments(model_name_or_path=str(tmp_path / "llama")))
        with pytest.raises(UserError, match="attend to each other") as raised:
            sft.check(args, None, ModelArguments(model_name_or_path=str(tmp_path / "opt")))
        assert "packing: false" in str(raised.value)
    sft.check(sft.SFTRecipe(**recipe), None, ModelArguments(model_name_or_path=str(tmp_path / "opt")))
    args = pretrain.PretrainRecipe(str(tmp_path / "out"))
    pretrain.check(pretrain.PretrainArguments(model_name_or_path=str(tmp_path / "llama")), None, args)
    with pytest.raises(UserError, match="attend to each other"):
        pretrain.check(pretrain.PretrainArguments(model_name_or_path=str(tmp_path / "opt")), None, args)


def test_packing_without_borders_is_said(tmp_path, caplog):
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    recipe = {"output_dir": str(tmp_path / "out"), "bf16": False, "use_cpu": True, "max_length": 64}
    recipe["assistant_only_loss"] = False  # the tiny template has no generation markers
    args = sft.SFTRecipe(**recipe, packing=True, packing_strategy="wrapped")
    sft.check(args, None, ModelArguments(model_name_or_path=str(tmp_path)))
    assert "lets them attend to each other" in caplog.text
