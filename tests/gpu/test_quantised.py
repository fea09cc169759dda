"""QLoRA: the stages of recipes/qlora-1gpu in short, on a base in 4 bit, and what is made of their adapters."""

import json
import math
from pathlib import Path

import base_models
import pytest
import torch
from transformers import AutoModelForCausalLM

import align
from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.chain import read_chain
from alignment.models.loading import load_causal_lm, load_trainable
from alignment.models.quantization import missing_for_quantization
from alignment.stages import sft
from alignment.stages.shared.lora import ModelArguments
from alignment.trainers.ppo.scorers import make_critic, shares_base

pytestmark = pytest.mark.skipif(bool(missing_for_quantization()), reason=", ".join(missing_for_quantization()))

RECIPES = Path(__file__).resolve().parents[2] / "recipes/qlora-1gpu"
SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "max_position_embeddings": 512}
SIZES |= {"num_key_value_heads": 2}
IDS = torch.tensor([[5, 40, 60, 90, 120, 7]])
SAMPLED = "--max_completion_length 8 --logging_steps 1 --max_steps 2 --learning_rate 1e-2 --eval_share 0 "
SAMPLED += '--reward_funcs ["reward_models.rules:length_penalty?each=0.1"]'
SHORT = {
    "sft": "--max_length 256 --max_steps 12 --learning_rate 1e-2 --warmup_steps 0 --logging_steps 1",
    "reward": "--max_length 256 --max_steps 2 --logging_steps 1",
    "dpo": "--max_length 256 --max_steps 2 --logging_steps 1 --learning_rate 1e-2",
    "ppo": f"{SAMPLED} --steps_per_generation 8 --num_iterations 1",
    "grpo": SAMPLED,
}
FILES = {"sft": ["math", "instructions"], "reward": ["preferences"], "dpo": ["preferences"]}
NEW = ["--use_peft", "true", "--lora_r", "4"]
MODES = {"continue": [], "stack": NEW, "merge": NEW}
# Policy and reference are the same numbers, but passes over batches of other sizes round otherwise in bfloat16.
ROUNDING = {"dpo": 1e-2, "ppo": 1e-4, "grpo": 1e-2}


def aligned(*words: object) -> None:
    assert align.main([str(word) for word in words]) == 0


def stage(run: Path, name: str, *options: object, folder: str | None = None) -> Path:
    """Train a stage of the recipe; its folder."""
    made, parent = run / (folder or name), run / "base" if name == "sft" else run / "sft/checkpoint"
    files = [word for file in FILES.get(name, ["math"]) for word in (f"--{file}", run / f"{file}.jsonl")]
    usual = [*SHORT[name].split(), "--model_name_or_path", parent, "--output_dir", made, *files]
    aligned(name, RECIPES / f"{name}.yaml", *usual, *options)
    return made


def logged(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS.to(model.device)).logits.float().cpu()


def packed(model) -> list[torch.Tensor]:
    """The weights in 4 bit."""
    return [one.data.cpu().clone() for one in model.parameters() if one.dtype == torch.uint8]


def settings(checkpoint: Path) -> dict:
    found = read_chain(checkpoint).quantization
    return {key: found[key] for key in ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")}


NF4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A base in 32 bit without a chat template, data, and the SFT adapter on the base in 4 bit."""
    run = tmp_path_factory.mktemp("run")
    base_models.llama(run / "base", **SIZES)
    base_models.write_inputs(run)
    stage(run, "sft")
    return run


def test_sft_learns_and_its_chain_says_how_the_base_was_quantised(run, capsys):
    losses = logged(run / "sft", "loss")
    print(f"SFT: loss {losses[0]:.3g}, then {losses[-1]:.3g}")
    assert losses[-1] < losses[0] - 0.5
    checkpoint = run / "sft/checkpoint"
    assert settings(checkpoint) == NF4
    result = json.loads((run / "sft/stage.json").read_text())
    whole = AutoModelForCausalLM.from_pretrained(run / "base").num_parameters()
    new_rows = 2 * SIZES["hidden_size"] * (read_chain(checkpoint).grown_to - base_rows(run))
    assert result["total_parameters"] - result["trainable_parameters"] == whole + new_rows
    aligned("info", checkpoint)
    assert "in training in nf4" in capsys.readouterr().out


def base_rows(run: Path) -> int:
    return json.loads((run / "base/config.json").read_text())["vocab_size"]


def test_paged_optimizer_trains_adapter_and_new_rows_alone_and_goes_on_where_it_was(tmp_path):
    """Wide enough (LoRA's A of 131,072 numbers) that the optimizer's state is in 8 bit, and paged."""
    base_models.llama(tmp_path / "base", **SIZES | {"hidden_size": 2048, "num_hidden_layers": 1})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in base_models.ROWS))
    keys = {"load_in_4bit": True, "use_bnb_nested_quant": True, "dtype": "bfloat16", "use_peft": True, "lora_r": 64}
    options = {
        "optim": "paged_adamw_8bit",
        "max_steps": 4,
        "save_steps": 2,
        "save_strategy": "steps",
        "logging_steps": 1,
    }
    ends = []
    for resume in (None, str(tmp_path / "whole/checkpoint-2")):
        place = tmp_path / ("again" if resume else "whole")
        args = sft.SFTRecipe(str(place), max_length=64, learning_rate=1e-3, report_to="none", **options)
        data = DataArguments(str(tmp_path / "rows.jsonl"), eval_share=0)
        trainer, *_ = sft.make_trainer(args, data, ModelArguments(str(tmp_path / "base"), **keys), place)
        trained = {name: one for name, one in trainer.model.named_parameters() if one.requires_grad}
        assert {one.dtype for one in trained.values()} == {torch.float32}
        before, base = {name: one.detach().clone() for name, one in trained.items()}, packed(trainer.model)
        trainer.train(resume_from_checkpoint=resume)
        assert all(torch.equal(*pair) for pair in zip(base, packed(trainer.model), strict=True))
        assert all(not torch.equal(one, before[name]) for name, one in trained.items())
        assert any("trainable_tokens_delta" in name for name in trained)
        states = trainer.optimizer.state.values()
        assert torch.uint8 in {state["state1"].dtype for state in states}
        assert {state["step"] for state in states} == {4}
        assert all(torch.isfinite(one).all() for one in trained.values())
        ends.append(logits(trainer.model))
    torch.testing.assert_close(*ends, rtol=0, atol=5e-2 * ends[0].abs().max().item())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["dpo", "ppo", "grpo"])
def test_alignment_begins_at_the_sft_model_and_leaves_it(run, name, mode):
    folder = stage(run, name, "--adapter_mode", mode, *MODES[mode], folder=f"{name}-{mode}")
    first, *_, last = logged(folder, "loss" if name == "dpo" else "kl")
    begin = math.log(2) if name == "dpo" else 0
    print(f"{name}, {mode}: {first - begin:.3g} from where it is to begin, then {last - begin:.3g}")
    assert first == pytest.approx(begin, abs=ROUNDING[name])
    assert abs(last - begin) > abs(first - begin)
    assert settings(folder / "checkpoint") == NF4


def test_the_reward_model_goes_on_and_rewards_ppo_on_the_one_base(run):
    folder = stage(run, "reward")
    assert settings(folder / "checkpoint") == NF4
    rewarded = ["--reward_model_path", folder / "checkpoint", "--reward_funcs", "[]"]
    assert logged(stage(run, "ppo", *rewarded, folder="rewarded"), "kl")[0] == pytest.approx(0, abs=ROUNDING["ppo"])
    policy = load_trainable(run / "sft/checkpoint", "causal-lm")
    assert shares_base(str(folder / "checkpoint"), policy)
    with pytest.raises(UserError, match="cannot start from a quantised policy"):
        make_critic(policy, [], None, "separate")


def test_a_stage_that_does_not_ask_for_4_bit_has_the_base_as_it_was(run):
    folder = stage(run, "dpo", "--load_in_4bit", "false", "--dtype", "float32", folder="not-asked")
    assert settings(folder / "checkpoint") == NF4
    as_trained = packed(load_trainable(run / "sft/checkpoint", "causal-lm"))
    found = packed(load_trainable(folder / "checkpoint", "causal-lm", dtype="float32"))
    assert len(found) == 14 and all(torch.equal(*pair) for pair in zip(found, as_trained, strict=True))


def test_merged_weights_say_what_the_quantised_base_and_its_adapter_say(run, tmp_path):
    aligned("merge", run / "sft/checkpoint", "--output_dir", tmp_path / "merged", "--dtype", "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")
    unmerged = load_trainable(run / "sft/checkpoint", "causal-lm", dtype="float32", dequantize=True)
    torch.testing.assert_close(
        logits(merged), logits(unmerged), rtol=0, atol=1e-4 * logits(unmerged).abs().max().item()
    )
    in_4_bit = logits(load_causal_lm(run / "sft/checkpoint")[0])  # computes in bfloat16
    difference, largest = (logits(merged) - in_4_bit).abs().max().item(), in_4_bit.abs().max().item()
    print(f"merged and in 4 bit: logits differ by {difference:.3g}, the largest is {largest:.3g}")
    assert difference < 5e-2 * largest


def test_a_quantised_adapter_is_evaluated_and_generates(run):
    suite = f"gsm8k?data={run / 'math.jsonl'}&num_fewshot=0&max_gen_toks=8"
    aligned("eval", run / "sft/checkpoint", "--suite", suite, "--limit", 2, "--format", "chat")
    model, tokenizer = load_causal_lm(run / "sft/checkpoint")
    ids = tokenizer("What is 2 and 2?", return_tensors="pt").to(model.device)
    assert model.generate(**ids, max_new_tokens=4, do_sample=False).shape[1] > ids["input_ids"].shape[1]
