"""The PPO trainer as a whole: its loop, its keys, its checkpoints."""

import json

import ppo_tiny as tiny
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback

from alignment.errors import UserError
from alignment.trainers.ppo_config import PPOConfig

METRICS = {
    "reward",
    "reward_std",
    "rewards/length_reward/mean",
    "kl",
    "kl/completion",
    "entropy",
    "completions/mean_length",
    "completions/terminated_ratio",
    "clip_ratio",
    "loss/policy",
    "loss/value",
    "value/explained_variance",
    "ratio/mean",
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


def lora(**kwargs) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **kwargs)


def sft_adapter(kind: str = "llama") -> PeftModel:
    """A policy with an adapter that already does something."""
    model = get_peft_model(tiny.model(kind), lora())
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


def lora_reward_model() -> PeftModel:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    return get_peft_model(tiny.model(head="score", seed=3), config)


class Gradients(TrainerCallback):
    """Remembers the gradients of each optimizer step, before they are clipped to nothing."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        modules = [model, self.trainer.value_model]
        self.steps.append(
            [
                {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
                for module in modules
            ]
        )


def gradients(path, **kwargs) -> list:
    callback = Gradients()
    arguments = {"max_steps": 1, "max_grad_norm": 1e9, **kwargs.pop("arguments", {})}
    run = tiny.trainer(path, arguments=arguments, callbacks=[callback], **kwargs)
    callback.trainer = run
    run.train()
    return callback.steps


def policies():
    return [("full", tiny.model(), None), ("new adapter", tiny.model(), lora()), ("sft adapter", sft_adapter(), None)]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("case", ["full", "gpt2", "new adapter", "sft adapter", "separate reference"])
def test_first_minibatch_has_ratio_1_and_kl_0(tmp_path, case, dropout):
    rates = {"attn_pdrop": dropout, "resid_pdrop": dropout} if case == "gpt2" else {"attention_dropout": dropout}
    policy = sft_adapter() if case == "sft adapter" else tiny.model("gpt2" if case == "gpt2" else "llama", **rates)
    run = tiny.trainer(
        tmp_path,
        policy=policy,
        peft_config=lora(lora_dropout=dropout) if case == "new adapter" else None,
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
        torch.rand(index)  # what others draw from the global generator does not matter
        run = tiny.trainer(tmp_path, arguments={"seed": seed, "steps_per_generation": 2, "num_iterations": 2})
        run.train()
        runs.append((tiny.weights(run.model), tiny.weights(run.value_model)))
    for module in range(2):
        assert tiny.same_weights(runs[0][module], runs[1][module])
        assert not tiny.same_weights(runs[0][module], runs[2][module])


@pytest.mark.parametrize("case", ["full", "lora"])
def test_accumulating_four_batches_of_one_equals_one_batch_of_four(tmp_path, case):
    reward = tiny.model(head="score", seed=3) if case == "full" else lora_reward_model()
    results = []
    for size, accumulation in [(4, 1), (1, 4)]:
        arguments = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": accumulation,
            "max_completion_length": 12,
            "activation_checkpointing": size == 1,
        }
        [step] = gradients(
            tmp_path,
            policy=tiny.model() if case == "full" else sft_adapter(),
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
    policy = get_peft_model(tiny.model(), lora(trainable_token_indices=[tiny.TURN, 5]))
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            parameter.data.normal_(std=0.3)
    run = tiny.trainer(tmp_path, policy=policy, arguments={"max_steps": 1, "beta": 0.1})
    run.train()
    assert run.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert run.state.log_history[0]["kl/completion"] == pytest.approx(0, abs=1e-5)


def test_a_lora_critic_trains_its_adapter_and_head_alone(tmp_path):
    reward = lora_reward_model()
    run = tiny.trainer(tmp_path, policy=sft_adapter(), reward_funcs=reward)
    critic, judge = tiny.weights(run.value_model), tiny.weights(reward)
    run.train()
    changed = {name for name, tensor in tiny.weights(run.value_model).items() if not torch.equal(tensor, critic[name])}
    assert changed and all("lora_" in name or "score.modules_to_save" in name for name in changed)
    assert any("score" in name for name in changed) and any("lora_" in name for name in changed)
    assert tiny.same_weights(tiny.weights(reward), judge)


def test_without_a_reward_model_the_critic_starts_at_zero_on_the_policys_trunk(tmp_path):
    for _, policy, peft_config in policies():
        run = tiny.trainer(tmp_path, policy=policy, peft_config=peft_config)
        with torch.no_grad():
            batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3)}
            critic, policy = run.value_model.eval(), run.model.eval()
            assert not critic(**batch).logits.any()
            trunks = [getattr(module, "get_base_model", lambda m=module: m)().model for module in (critic, policy)]
            hidden = [trunk(**batch).last_hidden_state for trunk in trunks]
            torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["full", "lora"])
def test_critic_warmup_leaves_the_policy_as_it_is(tmp_path, case):
    policy = tiny.model() if case == "full" else sft_adapter()
    before = tiny.weights(policy)
    run = tiny.trainer(tmp_path, policy=policy, arguments={"critic_warmup_steps": 2, "weight_decay": 0.1})
    critic = tiny.weights(run.value_model)
    run.train()
    after = tiny.weights(policy)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not tiny.same_weights(tiny.weights(run.value_model), critic)
    run = tiny.trainer(tmp_path, policy=policy, arguments={"critic_warmup_steps": 1})
    run.train()
    assert any(not torch.equal(tiny.weights(policy)[name], before[name]) for name in before)


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
    plan = run._next_micro_batch
    run._next_micro_batch = lambda: [result := plan(), rows.append(result[0].tolist())][0]
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
    """Tensors of the first rollout, and what was logged of it."""
    reward = arguments.pop("reward_funcs", tiny.length_reward)
    run = tiny.trainer(path, reward_funcs=reward, arguments={"max_steps": 1, **arguments})
    run.train()
    return run._rollout, run.state.log_history[0]


def test_keys_of_the_reward_do_what_they_say(tmp_path):
    arguments = {"whiten_advantages": False, "lam": 1.0, "max_completion_length": 4, "per_device_train_batch_size": 8}
    plain, log = first_update(tmp_path, **arguments)
    returns = plain.tensors["returns"][:, -1]  # of the last token: the score, as the first rollout has no KL
    assert 0 < log["completions/terminated_ratio"] < 1
    lengths = plain.completion_mask.sum(1).float()
    torch.testing.assert_close(returns, lengths)
    torch.testing.assert_close(plain.tensors["returns"][plain.completion_mask].max(), lengths.max())
    shifted, _ = first_update(tmp_path, **arguments, reward_baseline=3.5)
    torch.testing.assert_close(shifted.tensors["returns"][:, -1], lengths - 3.5)
    clipped, _ = first_update(tmp_path, **arguments, reward_clip=2.0)
    torch.testing.assert_close(clipped.tensors["returns"][:, -1], lengths.clamp(max=2))
    punished, punished_log = first_update(tmp_path, **arguments, missing_eos_penalty=1.5)
    torch.testing.assert_close(punished.tensors["returns"][:, -1], lengths - 1.5 * ~plain.terminated)
    assert punished_log["reward"] == log["reward"]
    masked, _ = first_update(tmp_path, **arguments, mask_truncated_completions=True)
    assert torch.equal(masked.tensors["loss_mask"].any(1), plain.terminated)
    weighted, _ = first_update(tmp_path, **arguments, reward_funcs=[tiny.length_reward] * 2, reward_weights=[1.0, 2.0])
    torch.testing.assert_close(weighted.tensors["returns"][:, -1], 3 * lengths)


def test_beta_charges_the_divergence_from_the_reference(tmp_path):
    results = {}
    for beta in [0.0, 0.5]:
        run = tiny.trainer(
            tmp_path,
            reward_funcs=lambda completion_ids, **kwargs: [0.0] * len(completion_ids),
            ref_model=tiny.model(seed=5),
            arguments={"max_steps": 1, "beta": beta, "lam": 1.0, "whiten_advantages": False},
        )
        run.train()
        results[beta] = run._rollout.tensors["returns"]
        divergence = run.state.log_history[0]["kl/completion"]
    assert abs(divergence) > 0.01 and not results[0.0].any()
    starts = (results[0.5] != 0).int().argmax(1)
    torch.testing.assert_close(
        results[0.5][torch.arange(4), starts].mean().item(), -0.5 * divergence, rtol=1e-3, atol=0
    )


def test_rows_without_an_opinion_are_left_out(tmp_path):
    def reward(completions, **kwargs):
        return [None, *[1.0] * (len(completions) - 1)]

    rollout, log = first_update(tmp_path, reward_funcs=reward)
    assert rollout.tensors["loss_mask"].any(1).tolist() == [False, True, True, True]
    assert log["reward"] == 1


def test_whitening_can_be_left_out(tmp_path):
    for whiten in [True, False]:
        rollout, _ = first_update(tmp_path, whiten_advantages=whiten)
        advantages = rollout.tensors["advantages"][rollout.tensors["loss_mask"]]
        assert (abs(advantages.mean()) < 1e-5) == whiten


def test_target_kl_ends_the_policys_part_of_a_rollout(tmp_path):
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
        (1, {"cliprange_value": 1e-4}),
        (1, {"vf_coef": 0.01}),
        (1, {"value_learning_rate": 1e-3}),
        (1, {"max_completion_length": 3}),
    ]:
        assert not tiny.same_weights(base[module], trained(**changes)[module]), changes


def test_evaluation_reports_rewards_and_repeats(tmp_path):
    arguments = {"eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0, "per_device_eval_batch_size": 3}
    run = tiny.trainer(tmp_path, arguments=arguments, eval_dataset=tiny.prompts(5))
    run.train()
    rewards = tiny.logged(run, "eval_reward")
    assert len(rewards) == 2 and rewards[0] == rewards[1]
    assert run.evaluate()["eval_reward"] == rewards[0]


def test_completions_are_written(tmp_path):
    tiny.trainer(tmp_path, arguments={"log_completions": True}).train()
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and {line["step"] for line in lines} == {0, 1}
    assert set(lines[0]) == {"step", "prompt", "completion", "terminated", "rewards"}
    assert set(lines[0]["rewards"]) == {"length_reward"}


@pytest.mark.parametrize("case", ["full", "new adapter", "sft adapter"])
def test_saved_policy_loads_plainly(tmp_path, case):
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
        policy = tiny.model() if case == "full" else sft_adapter()
        return tiny.trainer(tmp_path, policy=policy, reward_funcs=tiny.model(head="score", seed=3), arguments=arguments)

    whole = new()
    whole.train()
    resumed = new()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert tiny.same_weights(tiny.weights(whole.model), tiny.weights(resumed.model))
    assert tiny.same_weights(tiny.weights(whole.value_model), tiny.weights(resumed.value_model))
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
    get_peft_model(base, lora()).save_pretrained(tmp_path / "adapter")
    run = tiny.trainer(tmp_path, policy=str(tmp_path / "adapter"))
    run.train()
    assert set(run.model.peft_config) == {"default", "ref"} and tiny.logged(run, "approx_kl")[-1] >= 0


@pytest.mark.parametrize(
    "problem, arguments",
    [
        ("whole minibatches", {"gradient_accumulation_steps": 2, "steps_per_generation": 3}),
        ("temperature is too small", {"temperature": 0.0}),
        ("may not fit", {"max_completion_length": 100}),
        ("reward_weights", {"reward_weights": [1.0, 2.0]}),
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
    with pytest.raises(UserError, match="gives one score"):
        tiny.trainer(tmp_path, reward_funcs=tiny.model())
    with pytest.raises(UserError, match="already has an adapter"):
        tiny.trainer(tmp_path, policy=sft_adapter(), peft_config=lora())
    with pytest.raises(UserError, match="adapter is frozen"):
        tiny.trainer(tmp_path, policy=sft_adapter().requires_grad_(False))


def small_config():
    config = tiny.model(head="score").config
    config.vocab_size = 8
    return config


def test_config_has_trls_names_for_what_trl_has():
    from trl import GRPOConfig

    shared = {"max_completion_length", "temperature", "beta", "epsilon", "num_iterations", "steps_per_generation"}
    shared |= {"reward_weights", "mask_truncated_completions", "log_completions"}
    assert shared <= GRPOConfig.__dataclass_fields__.keys() & PPOConfig.__dataclass_fields__.keys()
