"""Every family of the lineage under the tools that users own: generation, compilation, PEFT, TRL."""

import shutil

import pytest
import torch
from datasets import Dataset
from gpt_tiny import EXPERTS, FAMILIES, MODERN, build, learn, save_with_letters, token_ids
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.generation import ContinuousBatchingConfig

from alignment.models.gpt import GPTConfig

GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_assisted_decoding_is_greedy_token_for_token(family):
    model, ids = build(FAMILIES[family]), token_ids(1, 6)
    mask = torch.ones_like(ids)
    greedy = model.generate(ids, attention_mask=mask, **GREEDY)
    assistant = build(MODERN, num_hidden_layers=1)
    assert model.generate(ids, attention_mask=mask, assistant_model=assistant, **GREEDY).tolist() == greedy.tolist()
    looked_up = model.generate(ids, attention_mask=mask, prompt_lookup_num_tokens=3, **GREEDY)
    assert looked_up.tolist() == greedy.tolist()


# Families that paged attention refuses, each by its option.
PAGED_REFUSES = {"softcap": "attn_logit_softcapping", "conv": "qkv_conv_size"}


@every_family
def test_continuous_batching_is_generate(family):
    model = build(FAMILIES[family])
    if family in PAGED_REFUSES:
        pytest.skip("refused by name: see test_paged_attention_refuses_what_it_cannot_honour")
    prompts = [token_ids(1, length, seed=length)[0].tolist() for length in (3, 7, 5)]
    config = model.generation_config
    config.update(max_new_tokens=6, do_sample=False, eos_token_id=-1)
    # Left to itself the cache takes nine tenths of the machine's memory, in each of pytest's workers.
    cache = ContinuousBatchingConfig(page_size=16, num_blocks=16, max_batch_tokens=64)
    batched = model.generate_batch(
        prompts, generation_config=config, continuous_batching_config=cache, progress_bar=False, warmup=False
    )
    found = [
        output.generated_tokens for output in sorted(batched.values(), key=lambda one: prompts.index(one.prompt_ids))
    ]
    options = GREEDY | {"max_new_tokens": 6}
    alone = [model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist() for prompt in prompts]
    assert found == alone


@every_family
def test_compiles_into_one_graph(family):
    if family == "dynamic":
        pytest.skip("dynamic NTK looks at the positions to decide: transformers' own code breaks the graph there")
    model, ids = build(FAMILIES[family], num_hidden_layers=2), token_ids(1, 6)
    if "moe" in family:
        model.set_experts_implementation("grouped_mm")
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids, use_cache=False).logits, model(ids).logits, rtol=0, atol=1e-4)


@every_family
def test_lora_trains_and_merges(family, tmp_path):
    build(FAMILIES[family]).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    options = {"target_modules": "all-linear", "r": 4, "task_type": "CAUSAL_LM", "init_lora_weights": True}
    if "moe" in family:
        options["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    model = get_peft_model(base, LoraConfig(**options))
    ids = token_ids(2, 10)
    losses = learn(model, ids)
    assert losses[-1] < losses[0] - 0.3
    if "moe" in family:
        moved = [n for n, p in model.named_parameters() if "experts" in n and "lora_B" in n and p.abs().sum() > 0]
        assert moved, "the packed experts have no adapter that learned"
    expected = model.eval()(input_ids=ids).logits
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(loaded.eval()(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(loaded.merge_and_unload()(ids).logits, expected, rtol=0, atol=1e-4)


@pytest.fixture(params=FAMILIES)
def checkpoint(request, tmp_path) -> str:
    return save_with_letters(build(FAMILIES[request.param]), tmp_path / "model")


def reward(completions, **_):
    return [float(completion.count("a")) for completion in completions]


TRL_STEPS = {
    "SFT": (
        [{"prompt": "a b c", "completion": " d e"}, {"prompt": "f", "completion": " g h i"}] * 2,
        {"max_length": 16},
    ),
    "Reward": ([{"prompt": "a b", "chosen": " c d e", "rejected": " f"}] * 4, {"max_length": 16}),
    "DPO": ([{"prompt": "a b", "chosen": " c d", "rejected": " e"}] * 4, {"max_length": 16}),
    "GRPO": ([{"prompt": "a b"}] * 4, {"max_completion_length": 5, "num_generations": 2}),
}


@pytest.mark.parametrize("method", TRL_STEPS)
def test_trl_runs_two_steps(checkpoint, method, tmp_path):
    import trl

    rows, options = TRL_STEPS[method]
    options = options | {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1}
    options |= {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no"}
    args = getattr(trl, f"{method}Config")(output_dir=str(tmp_path / "trainer"), **options)
    more = {"reward_funcs": reward} if method == "GRPO" else {}
    trainer = getattr(trl, f"{method}Trainer")(checkpoint, args=args, train_dataset=Dataset.from_list(rows), **more)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 2 and all(torch.tensor(losses).isfinite())
    changed = [name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])]
    assert method == "GRPO" or any("q_proj" in name for name in changed)


@pytest.mark.parametrize("family", PAGED_REFUSES)
def test_paged_attention_refuses_what_it_cannot_honour(family):
    from alignment.errors import UserError

    model = build(FAMILIES[family])
    model.config._attn_implementation = "paged|eager"
    with pytest.raises(UserError, match=PAGED_REFUSES[family]):
        model(token_ids(1, 4))
    # With SDPA, continuous batching hands its pages over as `cache` and leaves the backend's name.
    model.config._attn_implementation = "eager"
    with pytest.raises(UserError, match=PAGED_REFUSES[family]):
        model(token_ids(1, 4), cache=object())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile builds its kernels with g++, which is missing")
@every_family
def test_compiled_kernels_agree(family):
    if family == "dynamic":
        pytest.skip("as in test_compiles_into_one_graph")
    model, ids = build(FAMILIES[family]), token_ids(1, 6)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(ids, use_cache=False).logits, model(ids).logits, rtol=0, atol=1e-4)


PUBLISHED = {
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "modern-1b": 1_235_814_400,
    "modern-7b": 6_738_415_616,
    "moe-8x7b-like": 46_702_792_704,
    "moe-deepseek-like": 16_375_728_128,
}


@pytest.mark.parametrize("name", GPTConfig.preset_names())
def test_presets_have_the_published_sizes(name):
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(GPTConfig.from_preset(name)).num_parameters()
    if name in PUBLISHED:
        assert size == PUBLISHED[name]
    elif name.startswith("gpt3"):
        number, unit = name.removeprefix("gpt3-")[:-1], {"m": 1e6, "b": 1e9}[name[-1]]
        assert size == pytest.approx(float(number) * unit, rel=0.025)
        assert name != "gpt3-175b" or size == pytest.approx(175e9, rel=0.01)


def test_preset_fields_can_be_overridden():
    config = GPTConfig.from_preset("gpt2", num_hidden_layers=2, vocab_size=100)
    assert (config.num_hidden_layers, config.vocab_size, config.hidden_size) == (2, 100, 768)
    assert len(config.layer_types) == 2


def test_balance_loss_is_part_of_training_by_default():
    model = build(EXPERTS)
    output = model(token_ids(2, 8), labels=token_ids(2, 8))
    assert output.aux_loss > 0 and output.loss.requires_grad
