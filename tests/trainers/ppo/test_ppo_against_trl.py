"""Comparison with the last PPO of TRL (1.12.0), which runs in a separate process on the same weights and rollout.

The rollout is frozen: eight prompts, left-padded, with given responses. It is trained on twice, so that the second pass
has ratios away from 1 and values that moved, with both clips at work. Compared are, on completions of all lengths, with
the arithmetic of `ppo_math` and the forward passes of `ppo_models`: log-probabilities of policy and reference, scores,
values, rewards, advantages, returns, both losses and all gradients, at both passes. And where every completion fills
its length, trainer against trainer: the weights of policy and critic after both optimizer steps. Last, with sampling,
how well either learns a task over five seeds.

TRL 1.12 differs on purpose in three things, which helpers here reproduce: it puts the score one slot after the
end-of-sequence token, where it lets the critic have a value; it takes the mean value loss over that slot as well; and
it whitens by the unbiased variance. (Where completions fill their length there is no such slot.)

Not compared: more than one micro-batch or minibatch (there TRL 1.12 weights tokens unevenly), gradient clipping (it has
none), and schedules.
"""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ppo_tiny as tiny
import pytest
import torch
from safetensors.torch import load_file

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.maths import whiten
from alignment.trainers.ppo.models import completion_logits
from alignment.trainers.ppo.scorers import ModelScorer

ROOT = Path(__file__).resolve().parents[3]
OLD_TRL = ROOT / ".trl-1.12"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (OLD_TRL / "trl").is_dir(), reason="TRL 1.12 is not there: make trl-1.12"),
]

ROWS, LENGTH = 8, 6
SHARED = {  # by the same name in both trainers
    "per_device_train_batch_size": ROWS,
    "learning_rate": 0.03,
    "lr_scheduler_type": "constant",
    # so large that an update does not depend on the sign of a gradient that is 0 but for rounding
    "adam_epsilon": 1e-3,
    "weight_decay": 0.0,
    "gamma": 0.98,
    "lam": 0.9,
    "vf_coef": 0.5,
    "cliprange_value": 0.05,
    "missing_eos_penalty": 0.7,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
BETA, EPSILON = 0.1, 0.1
THEIRS = {
    "total_episodes": ROWS,
    "num_ppo_epochs": 2,
    "response_length": LENGTH,
    "stop_token": "eos",
    "temperature": 1.0,
    "kl_coef": BETA,
    "cliprange": EPSILON,
    "num_sample_generations": 0,
    "bf16": False,
    "gradient_checkpointing": False,
}
OURS = {
    "max_completion_length": LENGTH,
    "num_iterations": 2,
    "max_steps": 2,
    "beta": BETA,
    "epsilon": EPSILON,
    "max_grad_norm": 0.0,
}
HEADS = {"policy": ("lm", 0), "reference": ("lm", 1), "reward": ("score", 2), "critic": ("score", 3)}


def model(name: str, weights: dict[str, torch.Tensor] | None = None):
    head, seed = HEADS[name]
    result = tiny.model(head=head, seed=seed)
    if weights is not None:
        result.load_state_dict(weights)
    return result


def responses(lengths: list[int]) -> list[tuple[list[int], list[int]]]:
    """Padded responses with the given numbers of tokens; the shorter responses and two others end with EOS."""
    generator = torch.Generator().manual_seed(0)
    prompts = tiny.tokenizer()(list(tiny.prompts(ROWS)["prompt"]))["input_ids"]
    tokens = torch.randint(4, 30, (ROWS, LENGTH), generator=generator).tolist()
    for row, (ids, length) in enumerate(zip(tokens, lengths, strict=True)):
        if length < LENGTH or row < 2:
            ids[length - 1] = tiny.EOS
        ids[length:] = [tiny.PAD] * (LENGTH - length)
    return list(zip(prompts, tokens, strict=True))


def run_old_trl(folder: Path, models: dict[str, Any], inputs: dict[str, Any], command: str, *arguments: str) -> None:
    """Run a command of the helper on a folder that holds the models and the inputs."""
    for name, one in models.items():
        one.save_pretrained(folder / name)
    tiny.tokenizer().save_pretrained(folder / "policy")
    for name, content in inputs.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(OLD_TRL), "TRL_EXPERIMENTAL_SILENCE": "1"}
    line = [sys.executable, str(ROOT / "tests" / "helpers" / "trl_1_12_ppo.py"), command, str(folder), *arguments]
    ran = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]


def old_update(folder: Path, frozen: list) -> dict[str, torch.Tensor]:
    models = {name: model(name) for name in HEADS}
    run_old_trl(folder, models, {"responses": frozen, "config": SHARED | THEIRS}, "update")
    return load_file(folder / "update.safetensors")


def starting_with(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


# ---- What TRL 1.12 does on purpose in another way ----


def old_token_rewards(scores, kl, mask, beta):
    """The score one slot after the last token, if the row has one left."""
    rewards = maths.token_rewards(torch.zeros_like(scores), kl, mask, beta)
    after = mask.sum(1).clamp(max=mask.shape[1] - 1)
    rewards[torch.arange(len(rewards)), after] += scores
    return rewards


def with_slot_after(mask):
    """Mask of completions that begin in column 0, and mask of the slot after each."""
    return torch.arange(mask.shape[1]) <= mask.sum(1, keepdim=True)


def old_whiten(values, mask):
    """Whiten with the unbiased variance, as TRL does."""
    count = mask.sum()
    return whiten(values, mask) * torch.sqrt((count - 1) / count)


# ---- The comparisons ----


def assert_all_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], msg=lambda text, name=name: f"{name}: {text}")


def frozen_generate(frozen: list[tuple[list[int], list[int]]]):
    """A stand-in for model.generate."""

    def generate(input_ids, attention_mask):
        queries = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        found = [next(response for prompt, response in frozen if prompt == query) for query in queries]
        return torch.cat([input_ids, torch.tensor(found)], dim=1)

    return generate


@pytest.fixture(scope="module")
def ragged(tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """TRL 1.12's results for completions of all lengths, and its input batch."""
    theirs = old_update(tmp_path_factory.mktemp("ragged"), responses([1, 6, 2, 3, 4, 5, 6, 6]))
    ids = theirs["query_responses"]
    batch = {"input_ids": ids, "attention_mask": ids != tiny.PAD, "completion_ids": ids[:, -LENGTH:]}
    return theirs, batch | {"completion_mask": batch["completion_ids"] != tiny.PAD}


@torch.no_grad()
def our_rollout(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a rollout under TRL's names, 0 off the mask."""
    mask = batch["completion_mask"]
    slots, lengths = with_slot_after(mask), mask.sum(1)

    def log_probs(name):
        return maths.token_log_probs(completion_logits(model(name), batch, 1.0), batch["completion_ids"]) * mask

    logprobs, ref_logprobs = log_probs("policy"), log_probs("reference")
    values = ModelScorer(model("critic")).outputs(batch)[:, :-1] * slots
    scores = ModelScorer(model("reward")).outputs(batch).gather(1, lengths[:, None])[:, 0]
    terminated = (batch["completion_ids"] == tiny.EOS).any(1)
    scores = maths.shape_scores(scores, ~terminated, 0.0, None, SHARED["missing_eos_penalty"])
    rewards = old_token_rewards(scores, maths.kl_k1(logprobs, ref_logprobs), mask, BETA)
    advantages, returns = maths.gae(rewards, values, slots, SHARED["gamma"], SHARED["lam"])
    return {
        "logprobs": logprobs,
        "ref_logprobs": ref_logprobs,
        "values": values,
        "scores": scores,
        "rewards": rewards,
        "advantages": old_whiten(advantages, mask),
        "returns": returns,
    }


def test_a_rollout_has_the_same_tensors(ragged):
    theirs, batch = ragged
    mask = batch["completion_mask"]
    assert mask.sum(1).unique().tolist() == [1, 2, 3, 4, 5, 6]
    ours = our_rollout(batch)
    padding_is_0 = {name: theirs[name] * mask for name in ("logprobs", "ref_logprobs")}  # TRL fills it with 1
    assert_all_close(ours, {name: theirs[name] for name in ours} | padding_is_0)


@pytest.mark.parametrize("name", ["pass0", "pass1"])
def test_losses_and_gradients_are_the_same(ragged, name):
    theirs, batch = ragged
    rollout, mask = our_rollout(batch), batch["completion_mask"]
    slots = with_slot_after(mask)
    policy = model("policy", starting_with(theirs, f"{name}.weight.policy."))
    critic = model("critic", starting_with(theirs, f"{name}.weight.critic."))

    log_probs = maths.token_log_probs(completion_logits(policy, batch, 1.0), batch["completion_ids"])
    values = ModelScorer(critic).outputs(batch)[:, :-1]
    loss, _, is_clipped = maths.policy_loss(log_probs, rollout["logprobs"], rollout["advantages"], EPSILON)
    policy_loss = maths.masked_mean(loss, mask)
    loss = maths.value_loss(values, rollout["values"], rollout["returns"], SHARED["cliprange_value"])
    value_loss = maths.masked_mean(loss, slots)
    (policy_loss + SHARED["vf_coef"] * value_loss).backward()

    moved = ((values - rollout["values"]).abs() > SHARED["cliprange_value"]) & slots
    if name == "pass1":
        assert 0 < (is_clipped & mask).sum() < mask.sum() and 0 < moved.sum() < slots.sum(), "no clip was at work"
    torch.testing.assert_close(policy_loss, theirs[f"{name}.pg_loss"])
    torch.testing.assert_close(value_loss, theirs[f"{name}.vf_loss"])
    for owner, trained in [("policy", policy), ("critic", critic)]:
        gradients = {parameter: tensor.grad for parameter, tensor in trained.named_parameters()}
        assert all(gradient.any() for gradient in gradients.values())
        assert_all_close(gradients, starting_with(theirs, f"{name}.grad.{owner}."))


def test_both_trainers_agree_if_completions_have_the_maximum_length(tmp_path, monkeypatch):
    frozen = responses([LENGTH] * ROWS)
    theirs = old_update(tmp_path, frozen)
    monkeypatch.setattr(maths, "whiten", lambda values, mask, total: old_whiten(values, mask))
    policy = model("policy")
    run = tiny.trainer(
        tmp_path,
        policy=policy,
        reward_funcs=model("reward"),
        dataset=tiny.prompts(ROWS),
        arguments=SHARED | OURS,
        value_model=model("critic"),
        ref_model=model("reference"),
    )
    monkeypatch.setattr(policy, "generate", frozen_generate(frozen), raising=False)
    run.train()
    assert tiny.logged(run, "clip_ratio/region_mean")[1] > 0
    assert_all_close(dict(run.model.named_parameters()), starting_with(theirs, "trained.policy."))
    assert_all_close(dict(run.value_model.named_parameters()), starting_with(theirs, "trained.critic."))


# ---- Learning ----

TARGETS = range(10, 20)
SEEDS = (0, 1, 2, 3, 4)
UPDATES = 30


def last_token_reward():
    """A reward model that gives 1 to a sequence that ends with one of a third of the tokens, and -1 to others."""
    result = tiny.model(head="score")
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight", "score.weight")):
                parameter.zero_()
        embeddings, score = result.model.embed_tokens.weight, result.score.weight
        embeddings[:, 0] = -1.0
        embeddings[TARGETS, 0] = 1.0
        score[0, 0] = embeddings.shape[1] ** -0.5  # the norm before it makes the one feature so much larger
    return result


def test_both_trainers_learn_a_task_equally_well(tmp_path):
    task = {
        "per_device_train_batch_size": 32,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "adam_epsilon": 1e-5,
        "vf_coef": 0.5,
        "missing_eos_penalty": None,
    }
    theirs = THEIRS | task | {"total_episodes": 32 * UPDATES, "response_length": 3}
    ours = OURS | task | {"max_steps": 2 * UPDATES, "logging_steps": 2, "max_completion_length": 3}
    start = {name: model("policy") for name in ("policy", "reference")}
    start |= {"reward": last_token_reward(), "critic": model("critic")}
    texts = tiny.prompts(64)
    prompts = tiny.tokenizer()(list(texts["prompt"]))["input_ids"]
    run_old_trl(tmp_path, start, {"prompts": prompts, "config": SHARED | theirs}, "curves", *map(str, SEEDS))
    their_scores = torch.tensor(json.loads((tmp_path / "curves.json").read_text(encoding="utf-8")))

    def our_curve(seed: int) -> list[float]:
        run = tiny.trainer(
            tmp_path,
            policy=copy.deepcopy(start["policy"]),
            reward_funcs=start["reward"],
            dataset=texts,
            arguments=SHARED | ours | {"seed": seed},
            value_model=copy.deepcopy(start["critic"]),
        )
        run.train()
        return tiny.logged(run, "reward")

    our_scores = torch.tensor([our_curve(seed) for seed in SEEDS])
    assert our_scores.shape == their_scores.shape == (len(SEEDS), UPDATES)
    for scores in (our_scores, their_scores):
        assert scores[:, :3].mean() < 0 and scores[:, -5:].mean() > 0.7
    assert our_scores.mean() > their_scores.mean() - 0.1
