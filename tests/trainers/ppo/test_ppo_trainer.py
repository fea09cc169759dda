"""The PPO trainer as a whole: its loop, its keys, its checkpoints."""

import json
import logging

import ppo_tiny as tiny
import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, EarlyStoppingCallback

from alignment.errors import UserError
from alignment.pipeline.recipes.configs import build_configs
from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import RENAMED_KEYS, PPOConfig
from alignment.trainers.ppo.models import completion_logits
from alignment.trainers.ppo.ptx import mean_token_loss
from alignment.trainers.ppo.scorers import ModelScorer

METRICS = {
    "reward",
    "reward_std",
    "rewards/length_reward/mean",
    "rewards/length_reward/unscored",
    "kl",
    "kl/completion",
    "entropy",
    "completions/mean_length",
    "completions/min_length",
    "completions/max_length",
    "completions/mean_terminated_length",
    "completions/clipped_ratio",
    "clip_ratio/region_mean",
    "loss/policy",
    "loss/value",
    "value/explained_variance",
    "ratio/mean",
    "ratio/max",
    "kl_coef",
    "approx_kl",
    "advantages/mean",
    "advantages/std",
    "reward_length_corr",
    "num_tokens",
    "step_time",
    "time/generate",
    "time/score",
    "time/train",
    "policy_learns",
    "loss",
    "grad_norm",
    "learning_rate",
    "epoch",
    "step",
}


def policies():
    return [
        ("full", tiny.model(), None),
        ("new adapter", tiny.model(), tiny.lora()),
        ("sft adapter", tiny.sft_adapter(), None),
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("case", ["full", "gpt2", "new adapter", "sft adapter", "separate reference"])
def test_first_minibatch_has_ratio_1_and_kl_0(tmp_path, case, dropout):
    rates = {"attn_pdrop": dropout, "resid_pdrop": dropout} if case == "gpt2" else {"attention_dropout": dropout}
    policy = tiny.sft_adapter() if case == "sft adapter" else tiny.model("gpt2" if case == "gpt2" else "llama", **rates)
    run = tiny.trainer(
        tmp_path,
        policy=policy,
        peft_config=tiny.lora(lora_dropout=dropout) if case == "new adapter" else None,
        ref_model=tiny.model() if case == "separate reference" else None,
        arguments={"num_iterations": 2, "temperature": 0.7},
    )
    run.train()
    first, second = run.state.log_history[:2]
    assert first["ratio/mean"] == pytest.approx(1, abs=1e-6) and first["approx_kl"] < 1e-10
    assert abs(first["kl"]) < 1e-10 and abs(first["kl/completion"]) < 1e-5
    assert second["approx_kl"] > 1e-7


def test_every_update_logs_every_metric(tmp_path):
    run = tiny.trainer(tmp_path)
    run.train()
    for entry in run.state.log_history[:2]:
        assert set(entry) == METRICS
    assert run.state.log_history[0]["reward"] == run.state.log_history[0]["rewards/length_reward/mean"]


def test_same_seed_same_weights_to_the_bit(tmp_path):
    runs = []
    for index, seed in enumerate([0, 0, 1]):
        torch.rand(index)  # draws from the global generator must not matter
        run = tiny.trainer(tmp_path, arguments={"seed": seed, "steps_per_generation": 2, "num_iterations": 2})
        run.train()
        runs.append((tiny.weights(run.model), tiny.weights(run.value_model)))
    for module in range(2):
        assert tiny.same_weights(runs[0][module], runs[1][module])
        assert not tiny.same_weights(runs[0][module], runs[2][module])


def test_a_new_adapter_depends_on_the_seed_alone(tmp_path):
    drawn = []
    for index, seed in enumerate([0, 0, 1]):
        torch.manual_seed(100 + index)
        run = tiny.trainer(tmp_path, policy=tiny.model(), peft_config=tiny.lora(), arguments={"seed": seed})
        drawn.append({name: one for name, one in tiny.weights(run.model).items() if "lora_A" in name})
    assert drawn[0] and tiny.same_weights(drawn[0], drawn[1]) and not tiny.same_weights(drawn[0], drawn[2])


@pytest.mark.parametrize("case", ["full", "lora"])
def test_accumulating_four_batches_of_one_equals_one_batch_of_four(tmp_path, case):
    reward = tiny.model(head="score", seed=3) if case == "full" else tiny.lora_reward_model()
    results = []
    for size, accumulation in [(4, 1), (1, 4)]:
        arguments = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": accumulation,
            "max_completion_length": 12,
            "activation_checkpointing": size == 1,
            "critic_mode": "separate",
        }
        [step] = tiny.gradients(
            tmp_path,
            policy=tiny.model() if case == "full" else tiny.sft_adapter(),
            reward_funcs=reward,
            dataset=tiny.prompts(4),
            arguments=arguments,
        )
        results.append(step)
    for one, four in zip(*results, strict=True):
        assert one and one.keys() == four.keys()
        for name in one:
            torch.testing.assert_close(one[name], four[name], atol=1e-6, rtol=1e-4)
        assert sum(gradient.abs().sum() for gradient in one.values()) > 1e-4


def test_training_starts_at_the_reference_whatever_the_adapter_trains(tmp_path):
    policy = get_peft_model(tiny.model(), tiny.lora(trainable_token_indices=[tiny.TURN, 5]))
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            parameter.data.normal_(std=0.3)
    run = tiny.trainer(tmp_path, policy=policy, arguments={"max_steps": 1, "beta": 0.1})
    run.train()
    assert run.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert run.state.log_history[0]["kl/completion"] == pytest.approx(0, abs=1e-5)


def test_a_lora_critic_trains_its_adapter_and_head_alone(tmp_path):
    reward = tiny.lora_reward_model()
    run = tiny.trainer(tmp_path, policy=tiny.sft_adapter(), reward_funcs=reward, arguments={"critic_mode": "separate"})
    critic, judge = tiny.weights(run.value_model), tiny.weights(reward)
    run.train()
    changed = {name for name, tensor in tiny.weights(run.value_model).items() if not torch.equal(tensor, critic[name])}
    assert changed and all("lora_" in name or "score.modules_to_save" in name for name in changed)
    assert any("score" in name for name in changed) and any("lora_" in name for name in changed)
    assert tiny.same_weights(tiny.weights(reward), judge)


def test_without_a_reward_model_the_critic_starts_at_zero_on_the_policys_trunk(tmp_path):
    for _, policy, peft_config in policies():
        run = tiny.trainer(tmp_path, policy=policy, peft_config=peft_config, arguments={"critic_mode": "separate"})
        with torch.no_grad():
            batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3)}
            critic, policy = run.value_model.eval(), run.model.eval()
            assert not critic(**batch).logits.any()
            trunks = [getattr(module, "get_base_model", lambda m=module: m)().model for module in (critic, policy)]
            hidden = [trunk(**batch).last_hidden_state for trunk in trunks]
            torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


def test_optimizer_steps_are_iterations_times_minibatches(tmp_path):
    arguments = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
        "num_iterations": 3,
        "num_train_epochs": 2,
        "max_steps": -1,
    }
    run = tiny.trainer(tmp_path, arguments=arguments)
    run.train()
    rollouts = 2 * len(tiny.prompts()) // 4
    assert run.state.global_step == rollouts * 3 * 2
    assert len(tiny.logged(run, "reward")) == rollouts
    assert len(tiny.logged(run, "approx_kl")) == run.state.global_step
    assert tiny.trainer(tmp_path, arguments=arguments | {"max_steps": 5}).train().global_step == 5


def test_each_minibatch_is_a_share_of_the_rollout(tmp_path):
    rows = []
    arguments = {"per_device_train_batch_size": 2, "steps_per_generation": 2, "num_iterations": 2, "max_steps": 4}
    run = tiny.trainer(tmp_path, arguments=arguments)
    plan = run.schedule.next_micro_batch
    run.schedule.next_micro_batch = lambda *given: [result := plan(*given), rows.append(result[0].tolist())][0]
    run.train()
    first, second = rows[0] + rows[1], rows[2] + rows[3]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3] and first != second


def test_gradient_clipping_covers_policy_and_critic(tmp_path):
    frozen = {"max_grad_norm": 1e-12, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    for norm, moves in [(1e-12, False), (1.0, True)]:
        policy = tiny.model()
        run = tiny.trainer(tmp_path, policy=policy, arguments=frozen | {"max_grad_norm": norm})
        before = [tiny.weights(policy), tiny.weights(run.value_model)]
        run.train()
        for old, module in zip(before, [policy, run.value_model], strict=True):
            change = max((new - old[name]).abs().max() for name, new in tiny.weights(module).items())
            assert (change > 1e-4) == moves


def first_update(path, **arguments) -> tuple[dict, dict]:
    """The experience of the first rollout, and its log entry."""
    reward = arguments.pop("reward_funcs", tiny.length_reward)
    run = tiny.trainer(path, reward_funcs=reward, arguments={"max_steps": 1, **arguments})
    run.train()
    return run.experience, run.state.log_history[0]


def test_keys_of_the_reward_do_what_they_say(tmp_path):
    arguments = {"whiten_advantages": False, "lam": 1.0, "max_completion_length": 4, "per_device_train_batch_size": 8}
    plain, log = first_update(tmp_path, **arguments)
    returns = plain.targets.returns[:, -1]  # of the last token: the score, as the first rollout has no KL
    assert 0 < log["completions/clipped_ratio"] < 1
    lengths = plain.rollout.completion_mask.sum(1).float()
    torch.testing.assert_close(returns, lengths)
    torch.testing.assert_close(plain.targets.returns[plain.rollout.completion_mask].max(), lengths.max())
    shifted, _ = first_update(tmp_path, **arguments, reward_baseline=3.5)
    torch.testing.assert_close(shifted.targets.returns[:, -1], lengths - 3.5)
    clipped, _ = first_update(tmp_path, **arguments, reward_clip=2.0)
    torch.testing.assert_close(clipped.targets.returns[:, -1], lengths.clamp(max=2))
    punished, punished_log = first_update(tmp_path, **arguments, missing_eos_penalty=1.5)
    torch.testing.assert_close(punished.targets.returns[:, -1], lengths - 1.5 * ~plain.rollout.terminated)
    assert punished_log["reward"] == log["reward"]
    masked, _ = first_update(tmp_path, **arguments, mask_truncated_completions=True)
    assert torch.equal(masked.targets.loss_mask.any(1), plain.rollout.terminated)
    weighted, _ = first_update(tmp_path, **arguments, reward_funcs=[tiny.length_reward] * 2, reward_weights=[1.0, 2.0])
    torch.testing.assert_close(weighted.targets.returns[:, -1], 3 * lengths)


def test_beta_weights_the_kl_to_the_reference_in_the_reward(tmp_path):
    results = {}
    for beta in [0.0, 0.5]:
        run = tiny.trainer(
            tmp_path,
            reward_funcs=lambda completion_ids, **kwargs: [0.0] * len(completion_ids),
            ref_model=tiny.model(seed=5),
            arguments={"max_steps": 1, "beta": beta, "lam": 1.0, "whiten_advantages": False},
        )
        run.train()
        results[beta] = run.experience.targets.returns
        divergence = run.state.log_history[0]["kl/completion"]
    assert abs(divergence) > 0.01 and not results[0.0].any()
    starts = (results[0.5] != 0).int().argmax(1)
    torch.testing.assert_close(
        results[0.5][torch.arange(4), starts].mean().item(), -0.5 * divergence, rtol=1e-3, atol=0
    )


def test_completions_without_a_score_are_masked(tmp_path):
    def reward(completions, **kwargs):
        return [None, *[1.0] * (len(completions) - 1)]

    experience, log = first_update(tmp_path, reward_funcs=reward)
    assert experience.targets.loss_mask.any(1).tolist() == [False, True, True, True]
    assert log["reward"] == 1


def test_a_training_without_any_score_is_an_error(tmp_path, caplog):
    """At its end, after many prompts, and when it is started again at its end."""

    def none(completions, **kwargs):
        return [None] * len(completions)

    def run(**arguments):
        return tiny.trainer(tmp_path, reward_funcs=none, arguments={"logging_steps": 1} | arguments)

    with pytest.raises(UserError, match=r"no reward judges any completion: none\n(.|\n)*of this training"):
        run(save_strategy="steps", save_steps=1).train()
    messages = [record.getMessage() for record in caplog.records if "no reward scored" in record.getMessage()]
    assert [text.split(":")[0] for text in messages] == ["step 0", "step 1"]
    with pytest.raises(UserError, match="of this training"):
        run().train(resume_from_checkpoint=True)
    many = run(max_steps=200)
    many.opinions.prompts = 250
    with pytest.raises(UserError, match="of the first 258 prompts"):
        many.train()


def test_reward_functions_may_log_as_in_trl(tmp_path):
    def reward(completions, log_metric, log_extra, **kwargs):
        log_metric("words", 3.0)
        log_extra("mark", [f"m{index}" for index in range(len(completions))])
        return [1.0] * len(completions)

    run = tiny.trainer(tmp_path, reward_funcs=reward, arguments={"log_completions": True})
    run.train()
    assert tiny.logged(run, "words") == [3.0, 3.0]
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert [line["mark"] for line in lines] == ["m0", "m1", "m2", "m3"] * 2

    def too_few(completions, log_extra, **kwargs):
        log_extra("mark", ["m0"])

    with pytest.raises(UserError, match="mark has the wrong length"):
        tiny.trainer(tmp_path, reward_funcs=too_few).train()


def test_whitening_can_be_switched_off(tmp_path):
    for whiten in [True, False]:
        experience, _ = first_update(tmp_path, whiten_advantages=whiten)
        advantages = experience.targets.advantages[experience.targets.loss_mask]
        assert (abs(advantages.mean()) < 1e-5) == whiten


def test_target_kl_stops_the_policy_until_the_next_rollout(tmp_path):
    arguments = {"num_iterations": 3, "max_steps": 6, "learning_rate": 1e-2}
    free = tiny.trainer(tmp_path, arguments=arguments)
    free.train()
    assert tiny.logged(free, "policy_learns") == [1, 1, 1, 1, 1, 1]
    bound = tiny.trainer(tmp_path, arguments=arguments | {"target_kl": 1e-8})
    bound.train()
    assert tiny.logged(bound, "policy_learns") == [1, 1, 0, 1, 1, 0]


def test_other_keys_change_the_training(tmp_path):
    def trained(**arguments):
        run = tiny.trainer(
            tmp_path, arguments={"num_iterations": 2, "learning_rate": 1e-2, "max_completion_length": 4, **arguments}
        )
        run.train()
        return tiny.weights(run.model), tiny.weights(run.value_model)

    base = trained()
    for module, changes in [
        (0, {"epsilon": 1e-4}),
        (0, {"gamma": 0.5}),
        (0, {"lam": 0.5}),
        (0, {"temperature": 0.5}),
        (0, {"bf16": True}),
        (0, {"delta": 1.2001, "learning_rate": 0.3}),
        (1, {"cliprange_value": 1e-4}),
        (1, {"vf_coef": 0.01}),
        (1, {"value_learning_rate": 1e-3}),
        (1, {"max_completion_length": 3}),
    ]:
        assert not tiny.same_weights(base[module], trained(**changes)[module]), changes


def test_keys_of_the_advantages_do_what_they_say(tmp_path):
    judge = tiny.model(head="score", seed=3)
    arguments = {"whiten_advantages": False, "max_completion_length": 4, "per_device_train_batch_size": 8, "beta": 0.0}

    def update(**changes):
        return first_update(tmp_path, **arguments, reward_funcs=judge, **changes)[0]

    plain = update()
    targets, truncated = plain.targets, ~plain.rollout.terminated
    assert 0 < truncated.sum() < 8
    apart = update(lam_critic=1.0)
    assert torch.equal(apart.targets.advantages, targets.advantages)
    assert not torch.equal(apart.targets.returns, targets.returns)
    booted = update(bootstrap_truncated=True).targets.returns[:, -1]
    # The critic starts as the reward model.
    with torch.no_grad():
        after = ModelScorer(judge).outputs(plain.batch(torch.arange(8)))[:, -1]
    torch.testing.assert_close(booted, targets.returns[:, -1] + after * truncated)
    scaled = update(whiten_rewards=True, lam=1.0, lam_critic=1.0)
    returns = scaled.targets.returns[:, -1]
    scores = targets.returns[:, -1]
    torch.testing.assert_close(returns / scores, (returns[0] / scores[0]).expand(8))
    rewards = torch.zeros_like(plain.targets.returns)
    rewards[:, -1] = scores
    torch.testing.assert_close(returns, maths.scale(rewards, plain.rollout.completion_mask)[:, -1])


def test_the_first_rollouts_mean_reward_can_be_the_baseline(tmp_path):
    arguments = {"reward_normalization": True, "whiten_advantages": False, "lam": 1.0, "max_completion_length": 6}
    run = tiny.trainer(tmp_path, arguments=arguments | {"per_device_train_batch_size": 8, "max_steps": 3})
    run.train()
    first, *later = tiny.logged(run, "reward")
    assert run.baseline == pytest.approx(first)
    lengths = run.experience.rollout.completion_mask.sum(1).float()
    assert lengths.mean() == pytest.approx(later[-1]) and later[-1] != first
    experience, _ = first_update(tmp_path, **arguments, per_device_train_batch_size=8)
    returns = experience.targets.returns[:, -1]
    torch.testing.assert_close(returns, experience.rollout.completion_mask.sum(1).float() - first)


def test_missing_eos_mode_replace_replaces_the_reward(tmp_path):
    arguments = {"whiten_advantages": False, "max_completion_length": 4, "per_device_train_batch_size": 8}
    experience, _ = first_update(tmp_path, **arguments, missing_eos_penalty=9.0, missing_eos_mode="replace")
    lengths = experience.rollout.completion_mask.sum(1).float()
    expected = torch.where(experience.rollout.terminated, lengths, torch.tensor(-9.0))
    torch.testing.assert_close(experience.targets.returns[:, -1], expected)


def no_reward(completion_ids, **kwargs) -> list[float]:
    return [0.0] * len(completion_ids)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_kl_may_be_charged_in_the_loss(tmp_path, estimator):
    arguments = {"kl_placement": "loss", "kl_estimator": estimator, "beta": 0.5, "whiten_advantages": False}
    options = {"reward_funcs": no_reward, "ref_model": tiny.model(seed=5), "arguments": arguments}
    [[policy, _]] = tiny.gradients(tmp_path, **options)
    run = tiny.trainer(tmp_path, **options | {"arguments": arguments | {"max_steps": 1}})
    start = tiny.weights(run.model)
    run.train()
    batch = run.experience.batch(torch.arange(4))
    assert not batch["returns"].any()
    run.model.load_state_dict(start)
    log_probs = maths.token_log_probs(completion_logits(run.model, batch, 1.0), batch["completion_ids"])
    kl = maths.KL_ESTIMATORS[estimator](log_probs, batch["ref_log_probs"]) * batch["loss_mask"]
    run.model.zero_grad()
    (0.5 * kl.sum() / batch["loss_mask"].sum()).backward()
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(policy[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_every_kl_estimator_can_be_charged_in_the_reward(tmp_path):
    returns = {}
    for estimator in ["k1", "k2", "k3"]:
        arguments = {"kl_estimator": estimator, "beta": 0.5, "lam": 1.0, "whiten_advantages": False, "max_steps": 1}
        run = tiny.trainer(tmp_path, reward_funcs=no_reward, ref_model=tiny.model(seed=5), arguments=arguments)
        run.train()
        returns[estimator] = run.experience.targets.returns[:, -1]
    log_ratio = -returns["k1"] / 0.5
    torch.testing.assert_close(returns["k2"], -0.5 * 0.5 * log_ratio**2)
    torch.testing.assert_close(returns["k3"], -0.5 * ((-log_ratio).expm1() + log_ratio))


def test_beta_adapts_to_its_target(tmp_path):
    options = {"reward_funcs": no_reward, "ref_model": tiny.model(seed=5)}
    arguments = {"kl_target": 1e-6, "kl_horizon": 4, "beta": 0.1, "learning_rate": 0.0, "max_steps": 3}
    run = tiny.trainer(tmp_path, **options, arguments=arguments)
    run.train()
    kl = tiny.logged(run, "kl/completion")
    expected, beta = [], 0.1
    for value in kl:
        expected.append(beta)
        beta *= 1.2 if value > 0 else 0.8  # the error is clipped, and a rollout of 4 is the whole horizon
    assert tiny.logged(run, "kl_coef") == pytest.approx(expected) and run.beta == pytest.approx(beta)


def test_truncated_importance_sampling_weights_the_loss(tmp_path):
    arguments = {"sampler": "continuous_batching", "beta": 0.0, "vf_coef": 0.0, "per_device_train_batch_size": 4}
    [[plain, _]] = tiny.gradients(tmp_path, arguments=arguments)
    [[same, _]] = tiny.gradients(tmp_path, arguments=arguments | {"importance_sampling_clip": 2.0})
    [[halved, _]] = tiny.gradients(tmp_path, arguments=arguments | {"importance_sampling_clip": 0.5})
    run = tiny.trainer(tmp_path, arguments=arguments | {"importance_sampling_clip": 2.0})
    run.train()
    assert tiny.logged(run, "sampling/importance_ratio")[0] == pytest.approx(1.0, abs=1e-3)
    for name, gradient in plain.items():
        torch.testing.assert_close(same[name], gradient, atol=1e-5, rtol=1e-3)  # the sampler's probabilities are ours
        torch.testing.assert_close(halved[name], 0.5 * gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("sampler", ["generate", "continuous_batching"])
def test_in_bf16_the_policy_starts_at_its_reference(sampler, tmp_path):
    arguments = {"bf16": True, "sampler": sampler, "temperature": 0.7, "max_steps": 1, "num_iterations": 1}
    run = tiny.trainer(tmp_path, arguments=arguments)
    run.train()
    assert tiny.logged(run, "kl/completion") == [0.0] and tiny.logged(run, "ratio/max") == [1.0]


def test_the_entropy_bonus_raises_the_entropy(tmp_path):
    def last_entropy(coefficient):
        policy = tiny.model()
        policy.lm_head.weight.data *= 20  # far from uniform
        arguments = {
            "entropy_coef": coefficient,
            "beta": 0.0,
            "max_steps": 8,
            "learning_rate": 1e-2,
            "num_iterations": 2,
        }
        run = tiny.trainer(tmp_path, policy=policy, reward_funcs=no_reward, arguments=arguments | {"vf_coef": 0.0})
        run.train()
        entropy = tiny.logged(run, "entropy")
        return entropy[-1] - entropy[0]

    assert last_entropy(1.0) > last_entropy(0.0) + 0.05


def test_ptx_is_the_language_model_loss_of_the_texts(tmp_path):
    arguments = {"ptx_coef": 2.0, "beta": 0.0, "vf_coef": 0.0, "whiten_advantages": False, "ptx_max_length": 4}
    options = {"reward_funcs": no_reward, "ptx_dataset": tiny.texts(1)}
    [[policy, _]] = tiny.gradients(tmp_path, **options, arguments=arguments)
    model = tiny.model()
    ids = torch.tensor([[4, 5, tiny.EOS]])
    (2.0 * model(ids, labels=ids).loss).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(policy[name], parameter.grad, atol=1e-6, rtol=1e-4)
    [[accumulated, _]] = tiny.gradients(tmp_path, **options, arguments=arguments | {"gradient_accumulation_steps": 2})
    torch.testing.assert_close(accumulated["lm_head.weight"], policy["lm_head.weight"], atol=1e-6, rtol=1e-4)
    run = tiny.trainer(tmp_path, ptx_dataset=tiny.texts(6), arguments={"ptx_coef": 1.0, "ptx_max_length": 4})
    batch = run.texts.batch(("key",), torch.device("cpu"))
    assert batch["input_ids"].shape == (4, 4) and (batch["labels"] == tiny.EOS).sum() == 4
    for wrong in ({"ptx_dataset": tiny.texts()}, {"arguments": {"ptx_coef": 1.0}}):
        with pytest.raises(UserError, match="need each other"):
            tiny.trainer(tmp_path, **wrong)


def test_some_completions_are_logged_as_a_table(tmp_path, caplog):
    arguments = {"log_completions": True, "num_completions_to_print": 2, "logging_steps": 2, "max_steps": 4}
    with caplog.at_level(logging.INFO):
        tiny.trainer(tmp_path, arguments=arguments).train()
    tables = [record.getMessage() for record in caplog.records if "completions up to step" in record.getMessage()]
    assert [table.splitlines()[0] for table in tables] == ["completions up to step 2", "completions up to step 4"]
    assert all(len(table.splitlines()) == 4 for table in tables)


def test_old_keys_are_refused_with_their_new_names(tmp_path):
    with pytest.raises(UserError) as refused:
        PPOConfig(output_dir=str(tmp_path), kl_coef=0.1, cliprange=0.1)
    assert "kl_coef: beta" in str(refused.value) and "cliprange: epsilon" in str(refused.value)
    assert not RENAMED_KEYS.keys() & PPOConfig.__dataclass_fields__.keys()
    with pytest.raises(UserError, match="what it did: max_completion_length"):
        build_configs((PPOConfig,), {"output_dir": str(tmp_path), "response_length": 5}, "ppo.yaml")


def test_evaluation_reports_rewards_and_repeats(tmp_path):
    arguments = {"eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0, "per_device_eval_batch_size": 3}
    run = tiny.trainer(tmp_path, arguments=arguments, eval_dataset=tiny.prompts(5))
    run.train()
    rewards = tiny.logged(run, "eval_reward")
    assert len(rewards) == 2 and rewards[0] == rewards[1]
    assert run.evaluate()["eval_reward"] == rewards[0]


def test_training_stops_early_by_an_evaluations_reward(tmp_path):
    arguments = {"eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0, "max_steps": 6}
    arguments |= {"metric_for_best_model": "eval_reward", "save_strategy": "steps", "save_steps": 1}
    arguments |= {"load_best_model_at_end": True, "greater_is_better": True}
    run = tiny.trainer(
        tmp_path,
        arguments=arguments,
        eval_dataset=tiny.prompts(5),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    run.train()
    assert run.state.global_step == 3 and run.state.best_global_step == 1  # nothing is learned, so the first is best


def test_completions_are_written(tmp_path):
    tiny.trainer(tmp_path, arguments={"log_completions": True}).train()
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and {line["step"] for line in lines} == {0, 1}
    assert set(lines[0]) == {"step", "prompt", "completion", "terminated", "rewards"}
    assert set(lines[0]["rewards"]) == {"length_reward"}


@pytest.mark.parametrize("case", ["full", "new adapter", "sft adapter"])
def test_a_saved_policy_loads_with_from_pretrained(tmp_path, case):
    [(_, policy, peft_config)] = [entry for entry in policies() if entry[0] == case]
    run = tiny.trainer(tmp_path, policy=policy, peft_config=peft_config)
    run.train()
    run.save_model(tmp_path / "final")
    if case == "full":
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    else:
        loaded = PeftModel.from_pretrained(tiny.model(), tmp_path / "final")
    assert not [path for path in (tmp_path / "final").rglob("*") if path.is_dir() or "value_model" in path.name]
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(ids).logits, run.model.eval()(ids).logits)


@pytest.mark.parametrize("case", ["full", "sft adapter"])
def test_resuming_between_rollouts_repeats_the_uninterrupted_run(tmp_path, case):
    arguments = {
        "steps_per_generation": 2,
        "per_device_train_batch_size": 2,
        "num_iterations": 2,
        "max_steps": 12,
        "save_strategy": "steps",
        "save_steps": 2,
        "warmup_steps": 2,
    }

    def new():
        policy = tiny.model() if case == "full" else tiny.sft_adapter()
        return tiny.trainer(tmp_path, policy=policy, reward_funcs=tiny.model(head="score", seed=3), arguments=arguments)

    whole, resumed = tiny.resumed(new, tmp_path / "checkpoint-8")
    assert whole.state.num_input_tokens_seen == resumed.state.num_input_tokens_seen
    with pytest.raises(UserError, match="inside a rollout"):
        new().train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_models_are_loaded_from_paths(tmp_path):
    tiny.model().save_pretrained(tmp_path / "policy")
    tiny.tokenizer().save_pretrained(tmp_path / "policy")
    tiny.model(head="score").save_pretrained(tmp_path / "judge")
    run = tiny.trainer(tmp_path, policy=str(tmp_path / "policy"), reward_funcs=str(tmp_path / "judge"))
    run.train()
    run.save_model(tmp_path / "final")
    assert tiny.logged(run, "rewards/judge/mean")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    get_peft_model(base, tiny.lora()).save_pretrained(tmp_path / "adapter")
    run = tiny.trainer(tmp_path, policy=str(tmp_path / "adapter"))
    run.train()
    assert set(run.model.peft_config) == {"default", "ref", "critic"} and tiny.logged(run, "approx_kl")[-1] >= 0


@pytest.mark.parametrize(
    "problem, arguments",
    [
        ("whole minibatches", {"gradient_accumulation_steps": 2, "steps_per_generation": 3}),
        ("temperature is too small", {"temperature": 0.0}),
        ("may not fit", {"max_completion_length": 100}),
        ("reward_weights", {"reward_weights": [1.0, 2.0]}),
        ("has no effect with k1", {"kl_placement": "loss"}),
        ("kl_estimator has an unknown value", {"kl_estimator": "k4"}),
        ("needs the sampler's probabilities", {"importance_sampling_clip": 2.0}),
        ("delta is too small", {"delta": 1.1}),
        ("no beta to adapt", {"kl_target": 1.0, "beta": 0.0}),
        ("kl_target is too small", {"kl_target": 0.0}),
        ("exclude each other", {"reward_normalization": True, "reward_baseline": 1.0}),
    ],
)
def test_mistakes_in_the_configuration_are_named(tmp_path, problem, arguments):
    with pytest.raises(UserError, match=problem):
        tiny.trainer(tmp_path, arguments=arguments).train()


def test_mistakes_in_models_and_data_are_named(tmp_path):
    with pytest.raises(UserError, match="`prompt` column"):
        tiny.trainer(tmp_path, dataset=tiny.prompts().rename_column("prompt", "text"))
    with pytest.raises(UserError, match="smaller vocabulary"):
        tiny.trainer(tmp_path, reward_funcs=tiny.model("llama", "score").__class__(small_config()))
    with pytest.raises(UserError, match="not a reward model"):
        tiny.trainer(tmp_path, reward_funcs=tiny.model())
    with pytest.raises(UserError, match="already has an adapter"):
        tiny.trainer(tmp_path, policy=tiny.sft_adapter(), peft_config=tiny.lora())
    with pytest.raises(UserError, match="Nothing in the policy is trainable"):
        tiny.trainer(tmp_path, policy=tiny.model().requires_grad_(False))
    small = small_config()
    with pytest.raises(UserError, match="smaller vocabulary"):
        tiny.trainer(tmp_path, policy=tiny.model().__class__(small))
    with pytest.raises(UserError, match="has no tokens"):
        tiny.trainer(tmp_path, dataset=Dataset.from_dict({"prompt": ["w1", ""]}))
    with pytest.raises(UserError, match="1 of 2 prompts"):
        tiny.trainer(tmp_path, dataset=Dataset.from_dict({"prompt": ["w1", "w1 " * 60]}))
    with pytest.raises(UserError, match="does not fit reward_funcs"):
        tiny.trainer(tmp_path, reward_processing_classes=[None, None])
    optimizer = torch.optim.SGD(tiny.model().parameters())
    with pytest.raises(UserError, match="lr_scheduler_type"):
        tiny.trainer(tmp_path, optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, float)))
    with pytest.raises(UserError, match="adapter is frozen"):
        tiny.trainer(tmp_path, policy=tiny.sft_adapter().requires_grad_(False))


def small_config():
    config = tiny.model(head="score").config
    config.vocab_size = 8
    return config


def test_config_has_trls_names_for_shared_keys():
    from trl import GRPOConfig

    shared = {"max_completion_length", "temperature", "beta", "epsilon", "num_iterations", "steps_per_generation"}
    shared |= {"reward_weights", "mask_truncated_completions", "log_completions"}
    assert shared <= GRPOConfig.__dataclass_fields__.keys() & PPOConfig.__dataclass_fields__.keys()


def test_router_losses_have_the_same_weight_with_and_without_accumulation(tmp_path):
    """The rest of the loss is 0, and all rows have equally many tokens, so that z-losses average exactly."""
    arguments = {"vf_coef": 0.0, "beta": 0.0, "whiten_advantages": False, "max_completion_length": 1}
    options = {"reward_funcs": no_reward, "dataset": tiny.prompts().select([0] * 8)}
    router, found = "model.layers.0.mlp.gate.weight", {}
    for size in (4, 1):
        split = arguments | {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        [[policy, _]] = tiny.gradients(tmp_path, policy=tiny.moe_policy(1e-6, 1.0), **options, arguments=split)
        found[size] = policy[router]
    assert found[4].abs().max() > 1e-4
    torch.testing.assert_close(found[1], found[4], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("critic_mode", ["separate", "shared_head"])
def test_router_losses_of_micro_batches_are_weighted_by_their_tokens(tmp_path, critic_mode):
    arguments = {"max_steps": 1, "ptx_coef": 1.0, "critic_mode": critic_mode, "beta": 0.0}
    run = tiny.trainer(tmp_path, policy=tiny.moe_policy(0.5), arguments=arguments, ptx_dataset=tiny.texts())
    run.train()
    assert tiny.logged(run, "loss/router")[0] >= 0.9  # 1 if the experts are balanced
    model, total = run.model.train(), run.experience.targets.loss_mask.sum()
    run.texts = None
    for rows in (torch.tensor([0]), torch.tensor([1, 2, 3])):
        batch, losses = run.experience.batch(rows), []
        for coefficient in (0.5, 0.0):
            run.router_coefficient = coefficient
            losses.append(run.compute_loss(model, {"part": "all", **batch}, num_items_in_batch=total))
        seen = {name: batch[name] for name in ("input_ids", "attention_mask")}
        share = batch["loss_mask"].sum() / total
        assert 0 < share < 1
        expected = 0.5 * share * model(**seen, output_router_logits=True).aux_loss
        torch.testing.assert_close(losses[0] - losses[1], expected, rtol=1e-3, atol=1e-5)


def test_the_loss_of_pretraining_texts_has_no_router_losses(tmp_path):
    run = tiny.trainer(tmp_path, policy=tiny.moe_policy(0.5), arguments={"ptx_coef": 1.0}, ptx_dataset=tiny.texts())
    batch = run.texts.batch(("key",), torch.device("cpu"))
    plain = run.model.eval()(**batch, output_router_logits=False).loss
    torch.testing.assert_close(mean_token_loss(run.model.train(), batch), plain)
