"""The costs that `align info` prints, against built models and counted arithmetic."""

import json

import base_models
import pytest
import torch
from gpt_tiny import FAMILIES, MODERN, build
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache

import align
from alignment.models.gpt import GPTConfig
from alignment.models.gpt.sizes import sizes


@pytest.mark.parametrize("name", GPTConfig.preset_names())
def test_parameters_are_those_of_the_built_preset(name):
    config = GPTConfig.from_preset(name)
    with torch.device("meta"):
        assert sizes(config).parameters == AutoModelForCausalLM.from_config(config).num_parameters()


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_arithmetic_of_every_family(family):
    model = build(FAMILIES[family], attn_implementation="eager")
    model.set_experts_implementation("eager")  # the counter does not know the grouped kernel
    found = sizes(model.config, context=1)
    assert found.parameters == model.num_parameters()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.tensor([[5]]), use_cache=False)
    assert found.forward_flops_per_token == counter.get_total_flops()
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    assert found.active_parameters == model.num_parameters() - experts // 2  # two of the four


def test_attention_sees_half_the_context_or_the_window():
    plain = sizes(GPTConfig(**MODERN), context=1).forward_flops_per_token - 4 * 32 * 2
    assert sizes(GPTConfig(**MODERN), context=9).forward_flops_per_token == plain + 2 * 4 * 32 * 5  # mean of 1 to 9
    banded = GPTConfig(**MODERN, sliding_window=2)
    assert sizes(banded, context=4).forward_flops_per_token == plain + 2 * 4 * 32 * (1 + 2 + 2 + 2) / 4


@pytest.mark.parametrize("family", ["modern", "gpt3", "sliding"])
def test_cache_bytes_are_those_of_the_cache(family):
    model = build(FAMILIES[family]).to(torch.bfloat16)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.arange(3, 23).unsqueeze(0), past_key_values=cache)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    slides = sum(kind == "sliding_attention" for kind in model.config.layer_types)
    spare = slides * 2 * model.config.num_key_value_heads * model.config.head_dim  # transformers keeps window - 1
    assert sizes(model.config, context=20).kv_cache_bytes == 2 * (kept + spare)


def test_the_command_on_an_adapter_and_on_what_is_no_model(capsys, tmp_path):
    model = build(MODERN)
    model.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")).save_pretrained(
        tmp_path / "adapter"
    )
    assert align.main(["info", str(tmp_path / "adapter")]) == 0
    assert f"{model.num_parameters():,}" in capsys.readouterr().out
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/config.json").write_text('{"model_type": "unheard-of"}')
    for name, says in ((str(tmp_path / "odd"), "unheard-of"), ("nobody/unreachable", "cannot load nobody/unreachable")):
        assert align.main(["info", name]) == 2
        assert says in capsys.readouterr().err


def test_the_command_on_a_foreign_model_and_its_adapter(capsys, tmp_path):
    base_models.llama(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapter = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    adapter.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/chat_template.jinja").write_text("{{ messages }}")
    trained, whole = adapter.get_nb_trainable_parameters()

    def said(*words):
        assert align.main(["info", *map(str, words)]) == 0
        return capsys.readouterr().out

    plain = said(tmp_path / "base")
    context = base_models.SIZES["max_position_embeddings"]
    for text in ("LlamaForCausalLM", f"{whole - trained:,} in F32", f"{context} tokens"):
        assert text in plain
    assert "chat template             no" in plain and "adapter" not in plain
    assert f"LORA, {trained:,} parameters, on the base {tmp_path / 'base'}" in said(tmp_path / "adapter")
    content = json.loads(said(tmp_path / "adapter", "--json"))
    assert (content["parameters"], content["chat_template"]) == (whole - trained, True)
    assert align.main(["info", str(tmp_path / "base"), "--context", "8"]) == 2
    (tmp_path / "base/model.safetensors").write_bytes(b"")
    assert align.main(["info", str(tmp_path / "base")]) == 2
    assert "are damaged" in capsys.readouterr().err


def test_the_command(capsys, tmp_path):
    assert align.main(["info", "--preset", "gpt2"]) == 0
    assert "124,439,808" in capsys.readouterr().out
    build(MODERN).save_pretrained(tmp_path)
    assert align.main(["info", str(tmp_path), "--json", "--context", "10"]) == 0
    assert json.loads(capsys.readouterr().out)["context"] == 10
    assert align.main(["info", "--preset", "gpt22"]) == 2
    assert "did you mean 'gpt2'?" in capsys.readouterr().err
    assert align.main(["info"]) == 2
    assert "modern-7b" in capsys.readouterr().err
