"""The GRPO stage: what it learns, where completions end, going on after an interruption, and what it refuses."""

import json
import logging
import shutil

import ppo_tiny as tiny
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from alignment.data.arguments import DataArguments
from alignment.durable.manifest import write_manifest
from alignment.errors import UserError
from alignment.models.loading import load_trainable
from alignment.pipeline.recipes.configs import build_configs
from alignment.stages import grpo
from alignment.stages.shared.lora import ModelArguments
from alignment.stages.shared.rollouts import RewardSources
from alignment.stages.shared.saving import save_checkpoint

OPTIONS = {
    "num_generations": 4,
    "max_completion_length": 6,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}
SHORT = "reward_models.rules:length_penalty?each=0.1"


class Interrupted(Exception):
    pass


class InterruptAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Interrupted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy that is to stop at the end of a turn, reward models, and prompts with a column for rewards to read."""
    folder = tmp_path_factory.mktemp("grpo")
    policy = tiny.model()
    policy.generation_config.eos_token_id = [tiny.EOS, tiny.TURN]
    save_checkpoint(policy, tiny.tokenizer(), folder / "sft/checkpoint")
    judge = tiny.model(head="score", seed=3)
    save_checkpoint(judge, tiny.tokenizer(), folder / "judge/checkpoint")
    judge = load_trainable(folder / "judge/checkpoint", "sequence-classification")
    adapted = get_peft_model(judge, LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS"))
    save_checkpoint(adapted, tiny.tokenizer(), folder / "judge-lora/checkpoint")
    rows = [
        {"prompt": [{"role": "user", "content": f"w{n} w{n + 1}"}], "answer": tiny.WORDS[n % 2 + 7]}
        | {"completions": [n], "empty": ""}
        for n in range(24)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(
        "def share(completions, answer, **columns):\n"
        "    words = [reply[0]['content'].split() for reply in completions]\n"
        "    return [row.count(one) / 6 for row, one in zip(words, answer, strict=True)]\n"
        "async def later(completions, **columns):\n"
        "    return [1.0] * len(completions)\n"
    )
    return folder


def run(folder, output, *callbacks, rows=24, funcs=(SHORT,), judge=None, **keys):
    """Run the stage: what it logged."""
    args = grpo.GRPORecipe(str(output), **OPTIONS | keys)
    data = DataArguments(str(folder / "prompts.jsonl"), eval_share=0, max_train_samples=rows)
    sources = RewardSources(reward_model_path=judge, reward_funcs=list(funcs))
    grpo.run(args, data, ModelArguments(str(folder / "sft/checkpoint")), sources, callbacks)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_a_rule_is_learned_from_a_column(folder, tmp_path):
    """A word that the prompt's row names, among 30."""
    keys = {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1, "num_generations": 8, "beta": 0.01}
    funcs = [f"{folder / 'rewards.py'}:share"]
    lines = run(folder, tmp_path / "grpo", funcs=funcs, max_steps=24, lr_scheduler_type="constant", **keys)
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert rewards[0] < 0.1
    assert sum(rewards[-3:]) / 3 > 0.4
    assert max(line.get("kl", 0) for line in lines) > 0.1
    told = json.loads((tmp_path / "grpo/stage.json").read_text())
    assert told["method"] == "grpo" and told["parent"].endswith("sft/checkpoint")
    assert told["metrics"]["reward"] == rewards[-1] and told["tokens"] > 0


@pytest.mark.parametrize("judge", ["judge", "judge-lora"])
def test_rewards_of_a_model_and_of_functions_of_one_name(folder, tmp_path, judge):
    funcs = [SHORT, "reward_models.rules:length_penalty?each=0.5", f"{folder / 'rewards.py'}:later"]
    line = run(folder, tmp_path / "grpo", funcs=funcs, judge=str(folder / judge / "checkpoint"), max_steps=1)[0]
    names = [judge, "length_penalty_1", "length_penalty_2", "later"]
    means = [line[f"rewards/{name}/mean"] for name in names]
    assert means[2] == pytest.approx(5 * means[1]) and means[3] == 1
    assert line["reward"] == pytest.approx(sum(means))


def test_a_training_without_any_reward_is_an_error(folder, tmp_path):
    with pytest.raises(UserError, match=r"no reward judges any completion: answer_match\n(.|\n)*of this training"):
        run(folder, tmp_path / "grpo", funcs=["rules:answer_match?column=empty"], max_steps=1, self_check=False)


def test_a_column_named_like_an_argument_is_left_out(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        line = run(folder, tmp_path / "grpo", funcs=[f"{folder / 'rewards.py'}:share"], max_steps=1, self_check=False)[
            0
        ]
    assert "completions" in caplog.text and line["rewards/share/unscored"] == 0


def test_completions_end_with_the_turn(folder, tmp_path):
    """As the generation config says, which TRL's own does not have alone."""
    args = grpo.GRPORecipe(str(tmp_path / "trainer"), **OPTIONS)
    data = DataArguments(str(folder / "prompts.jsonl"), eval_share=0)
    arguments = ModelArguments(str(folder / "sft/checkpoint"))
    trainer = grpo.make_trainer(args, data, arguments, RewardSources(reward_funcs=[SHORT]), tmp_path)
    with torch.no_grad():
        trainer.model.lm_head.weight.copy_(-torch.ones_like(trainer.model.lm_head.weight))
        trainer.model.lm_head.weight[tiny.TURN] *= -1
        trainer.model.model.norm.weight.zero_()
    seen = []
    trainer.reward_funcs = [lambda completion_ids, **columns: [seen.append(ids) or 0.0 for ids in completion_ids]]
    trainer.args.max_steps = 1
    trainer.train()
    assert seen
    for ids in seen:
        assert not {tiny.EOS, tiny.TURN}.intersection(ids[:-1])
    assert {ids[-1] for ids in seen} >= {tiny.EOS, tiny.TURN}


def test_settings_of_the_parents_generation_config_change_no_rollout_and_stay_in_the_checkpoint(folder, tmp_path):
    """TRL leaves what it does not set itself to the model's generation config."""
    leaky = {"no_repeat_ngram_size": 1, "suppress_tokens": list(range(4, 20)), "min_new_tokens": 6, "top_k": 1}
    shutil.copytree(folder / "sft", tmp_path / "leaky/sft")
    shutil.copy(folder / "prompts.jsonl", tmp_path / "leaky/prompts.jsonl")
    file = tmp_path / "leaky/sft/checkpoint/generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | leaky | {"do_sample": True}))
    write_manifest(file.parent)
    lines = [run(origin, tmp_path / origin.name / "grpo", max_steps=2) for origin in (folder, tmp_path / "leaky")]
    plain, other = ([{k: v for k, v in line.items() if k not in TIMES} for line in part] for part in lines)
    assert plain == other
    kept = json.loads((tmp_path / "leaky/grpo/checkpoint/generation_config.json").read_text())
    assert {name: kept.get(name) for name in leaky} == leaky and kept["eos_token_id"] == [tiny.EOS, tiny.TURN]


def test_an_interrupted_stage_ends_as_an_uninterrupted_one(folder, tmp_path):
    """In the second epoch, within an epoch, with rollouts of two steps: 3 rollouts an epoch."""
    keys = {"num_iterations": 2, "max_steps": 12, "save_strategy": "steps", "save_steps": 3, "beta": 0.1, "rows": 6}
    whole = run(folder, tmp_path / "whole", **keys)
    with pytest.raises(Interrupted):
        run(folder, tmp_path / "again", InterruptAt(9), **keys)
    steps = sorted(path.name for path in (tmp_path / "again/trainer").glob("checkpoint-*"))
    assert steps == ["checkpoint-4", "checkpoint-6"]  # not within a rollout
    again = run(folder, tmp_path / "again", **keys)
    told = [[{k: v for k, v in line.items() if k not in TIMES} for line in lines] for lines in (whole, again)]
    assert told[0] == told[1]
    ends = [load_trainable(tmp_path / name / "checkpoint", "causal-lm").state_dict() for name in ("whole", "again")]
    assert tiny.same_weights(*ends)


BEST = {"eval_strategy": "steps", "save_strategy": "best", "metric_for_best_model": "reward"}
TIMES = ("seconds", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"num_generations": 1}, "num_generations is too small"),
        ({"num_generations": 3}, "must be divisible by num_generations"),
        ({"loss_type": "ppo", "scale_rewards": "groups"}, r"loss_type has an unknown value[\s\S]*scale_rewards has an"),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 6}, "do not end together"),
        (BEST | {"eval_steps": 3, "num_iterations": 2}, "multiple of 2"),
        ({"use_transformers_continuous_batching": True, "bf16": True}, "to 16 bit"),
        ({"sync_ref_model": True}, "no reference to update"),
        ({"use_vllm": True}, "vLLM is not installed"),
        ({"num_generation": 4}, "num_generations"),
    ],
)
def test_keys_that_cannot_be_are_refused_before_anything_runs(keys, said):
    recipe = {"output_dir": "out", **OPTIONS, **keys}
    with pytest.raises(UserError, match=said):
        build_configs((grpo.GRPORecipe,), recipe, "grpo.yaml")


def test_what_parent_and_rows_show_to_be_impossible_is_refused(folder, tmp_path):
    parent = str(folder / "sft/checkpoint")
    new, pissa = ModelArguments(parent, use_peft=True), {"use_peft": True, "init_lora_weights": "pissa"}
    with pytest.raises(UserError, match="whose weights are all trained"):
        grpo.check(grpo.GRPORecipe("out", sync_ref_model=True, beta=0.1, **OPTIONS), None, new, None)
    with pytest.raises(UserError, match="PiSSA changes the base"):
        grpo.check(grpo.GRPORecipe("out", **OPTIONS), None, ModelArguments(parent, **pissa), None)
    with pytest.raises(UserError, match="too few prompts for one rollout"):
        run(folder, tmp_path / "grpo", rows=6, steps_per_generation=8, max_steps=1)
