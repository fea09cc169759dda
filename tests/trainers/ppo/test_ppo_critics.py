"""The critic in its modes: a separate model, a head on the policy's trunk, an adapter on the policy's base."""

from types import SimpleNamespace

import ppo_tiny as tiny
import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from alignment.errors import UserError
from alignment.models.loading import load_trainable
from alignment.trainers.ppo import maths, scorers
from alignment.trainers.ppo.models import Reference, add_copy, completion_logits_and_states
from alignment.trainers.ppo.scorers import AdapterScorer, CriticCallback, HeadScorer, make_critic
from alignment.trainers.ppo.trainer import PPOTrainer

MODES = ["separate", "shared_head", "lora"]


@pytest.fixture
def adapters(tmp_path) -> tuple[str, str]:
    """Paths of a policy's and a reward model's adapter on one base."""
    tiny.model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    from peft import get_peft_model

    policy = tiny.active(get_peft_model(base, tiny.lora()))
    policy.save_pretrained(tmp_path / "policy")
    judge = load_trainable(str(tmp_path / "policy"), "sequence-classification")
    tiny.active(judge)
    torch.manual_seed(2)
    judge.get_base_model().score.modules_to_save["default"].weight.data.normal_()
    judge.save_pretrained(tmp_path / "judge")
    return str(tmp_path / "policy"), str(tmp_path / "judge")


def test_a_base_with_another_quantisation_is_not_shared(adapters, monkeypatch):
    policy, judge = load_trainable(adapters[0], "causal-lm"), adapters[1]
    assert scorers.shares_base(judge, policy)
    monkeypatch.setattr(scorers, "recorded_quantization", lambda checkpoint: {"load_in_4bit": True})
    assert not scorers.shares_base(judge, policy)


def test_a_reward_adapter_has_the_positions_of_the_policys_base_and_must_fit_it(adapters):
    policy, judge = load_trainable(adapters[0], "causal-lm"), adapters[1]
    assert scorers.load_scorer(judge, policy, "reward_0").context == 64
    file = f"{judge}/adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if ".layers.1." in name)
    save_file(weights | {name.replace(".layers.1.", ".layers.9."): weights[name].clone()}, file)
    with pytest.raises(UserError, match="does not fit the policy"):
        scorers.load_scorer(judge, policy, "reward_1")


def unnamed(gradients: dict) -> dict:
    """Gradients of an adapter by module, without the names of the adapter and its wrapper."""
    drop = {"default", "critic", "modules_to_save", "base_model", "model"}
    return {".".join(part for part in name.split(".") if part not in drop): one for name, one in gradients.items()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_on_one_base_have_the_gradients_of_separate_models(tmp_path, adapters, checkpointing):
    policy, judge = adapters
    arguments = {"max_completion_length": 8, "activation_checkpointing": checkpointing, "vf_coef": 1.0}
    shared = tiny.gradients(tmp_path, policy=policy, reward_funcs=judge, arguments=arguments)
    apart = tiny.gradients(
        tmp_path,
        policy=policy,
        reward_funcs=AutoPeftModelForSequenceClassification.from_pretrained(judge, num_labels=1),
        arguments=arguments | {"critic_mode": "separate"},
    )
    for one, other in zip(shared[0], apart[0], strict=True):
        one, other = unnamed(one), unnamed(other)
        assert one.keys() == other.keys() and len(one) > 20
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-4)
        assert sum(gradient.abs().sum() for gradient in one.values()) > 1e-3


def test_one_base_serves_policy_reference_reward_and_critic(tmp_path, adapters):
    policy, judge = adapters
    run = tiny.trainer(tmp_path, policy=policy, reward_funcs=judge)
    assert set(run.model.peft_config) == {"default", "ref", "reward_0", "critic"}
    assert run.reference.model is None and isinstance(run.critic, AdapterScorer)
    held = {id(p): p.numel() for module in (run.model, run.value_model) for p in module.parameters()}
    adapter = sum(p.numel() for name, p in run.model.named_parameters() if ".default." in name)
    assert sum(held.values()) == tiny.model().num_parameters() + 4 * adapter + 32
    judged = AutoPeftModelForSequenceClassification.from_pretrained(judge, num_labels=1).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": torch.ones(1, 2)}
    with torch.no_grad():
        expected = judged(ids).logits[0, 0]
        torch.testing.assert_close(run.rewards[0].scorer.outputs(batch)[0, -1], expected)
        torch.testing.assert_close(run.critic.outputs(batch)[0, -1], expected)  # it starts as the reward model
    frozen = {n: p.clone() for n, p in run.model.named_parameters() if ".ref." in n or ".reward_0." in n}
    run.train()
    assert run.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-10)
    after = dict(run.model.named_parameters())
    assert frozen and all(torch.equal(after[name], before) for name, before in frozen.items())
    run.save_model(tmp_path / "final")
    assert not [path for path in (tmp_path / "final").iterdir() if path.is_dir()]
    loaded = PeftModel.from_pretrained(tiny.model(), tmp_path / "final").eval()
    torch.testing.assert_close(loaded(ids).logits, run.model.eval()(ids).logits)


def test_a_second_trainer_can_use_the_same_policy(tmp_path, adapters):
    policy = load_trainable(adapters[0], "causal-lm")
    for _ in range(2):
        run = tiny.trainer(tmp_path, policy=policy, reward_funcs=adapters[1], arguments={"max_steps": 1})
        run.train()
        assert run.state.log_history[0]["approx_kl"] < 1e-10


@pytest.mark.parametrize("mode", MODES)
def test_critic_warmup_does_not_change_the_policy(tmp_path, mode):
    policy = tiny.sft_adapter() if mode == "lora" else tiny.model()
    before = tiny.weights(policy)
    arguments = {"critic_mode": mode, "critic_warmup_steps": 2, "weight_decay": 0.1}
    run = tiny.trainer(tmp_path, policy=policy, arguments=arguments)
    critic = {name: p.detach().clone() for name, p in run.critic.trained().items()}
    run.train()
    after = tiny.weights(policy)
    assert all(torch.equal(after[name], before[name]) for name in before)
    trained = run.critic.trained()
    assert any(not torch.equal(trained[name], critic[name]) for name in critic)
    run = tiny.trainer(tmp_path, policy=policy, arguments=arguments | {"critic_warmup_steps": 1})
    run.train()
    assert any(not torch.equal(tiny.weights(policy)[name], before[name]) for name in before)


def test_a_head_on_the_policys_trunk_learns_with_it(tmp_path):
    callback = tiny.Gradients()
    arguments = {"critic_mode": "shared_head", "vf_coef": 0.5, "max_steps": 1, "max_grad_norm": 1e9}
    run = callback.trainer = tiny.trainer(tmp_path, arguments=arguments, callbacks=[callback])
    run.value_model.weight.data.normal_(std=0.1)
    start, head = tiny.weights(run.model), run.value_model.weight.detach().clone().requires_grad_()
    run.train()
    [[policy, critic]] = callback.steps
    model, batch = run.model, run.experience.batch(torch.arange(4))
    model.load_state_dict(start)
    logits, states = completion_logits_and_states(model, batch, 1.0)
    log_probs = maths.token_log_probs(logits, batch["completion_ids"])
    loss, _, _ = maths.policy_loss(log_probs, batch["old_log_probs"], batch["advantages"], 0.2)
    values = (states[:, :-1] @ head.T)[..., 0]
    torch.testing.assert_close(values * batch["completion_mask"], batch["old_values"])
    loss = loss + 0.5 * maths.value_loss(values, batch["old_values"], batch["returns"], 0.2)
    mask = batch["loss_mask"]
    model.zero_grad()
    ((loss * mask).sum() / mask.sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(policy[name], parameter.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(critic["score.weight"], head.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_resuming_repeats_the_uninterrupted_run_in_every_mode(tmp_path, mode):
    arguments = {
        "critic_mode": mode,
        "num_iterations": 2,
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 4,
        "kl_target": 0.5,
        "kl_horizon": 20,
        "reward_normalization": True,
        "ptx_coef": 0.1,
    }

    def new():
        policy = tiny.sft_adapter() if mode == "lora" else tiny.model()
        return tiny.trainer(tmp_path, policy=policy, arguments=arguments, ptx_dataset=tiny.texts())

    whole, resumed = tiny.resumed(new, tmp_path / "checkpoint-4")
    assert (whole.beta, whole.baseline) == (resumed.beta, resumed.baseline) != (0.05, 0.0)


def test_impossible_critic_modes_are_refused(tmp_path):
    with pytest.raises(UserError, match="needs a policy with an adapter"):
        tiny.trainer(tmp_path, arguments={"critic_mode": "lora"})
    with pytest.raises(UserError, match="excludes a value_model"):
        tiny.trainer(tmp_path, value_model=tiny.model(head="score"), arguments={"critic_mode": "shared_head"})
    with pytest.raises(UserError, match="critic_mode has an unknown value"):
        tiny.config(tmp_path, critic_mode="shared")
    tiny.model().save_pretrained(tmp_path / "policy")
    tiny.tokenizer().save_pretrained(tmp_path / "policy")
    with pytest.raises(UserError, match="its score head would be random"):
        tiny.trainer(tmp_path, reward_funcs=str(tmp_path / "policy"))


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_replacing_an_adapter_keeps_the_active_and_the_trainable_ones():
    policy = tiny.sft_adapter()
    add_copy(policy, "default", "critic")
    assert policy.active_adapters == ["default"] and all(".default." in name for name in trainable(policy))
    policy.set_adapter("critic")  # PEFT, asked to drop the adapter that runs, runs and trains another
    policy.requires_grad_(False)
    add_copy(policy, "default", "critic")
    assert policy.active_adapters == ["critic"] and not trainable(policy)
    weights = tiny.weights(policy)
    copied = [name for name in weights if ".critic." in name]
    assert copied and all(torch.equal(weights[name], weights[name.replace("critic", "default")]) for name in copied)


def test_a_separate_reference_is_frozen_and_has_no_dropout():
    policy, other = tiny.model("gpt2"), tiny.model("gpt2", seed=1, resid_pdrop=0.5).train()
    for reference in (Reference(policy, other, False), Reference(policy, None, False)):
        with reference.active() as model:
            assert model is not policy and not model.training and not trainable(model)
    assert len(trainable(policy)) == len(list(policy.parameters()))


def test_a_new_head_outputs_0_and_trained_lists_every_trained_parameter():
    policy, states = tiny.model(), torch.ones(2, 3, 32)
    head = HeadScorer(policy)
    assert not head.of_states(states).any() and head.of_states(states).shape == (2, 3)
    assert set(head.trained()) == {"score.weight"}
    whole = make_critic(policy, [], None, None)
    assert set(whole.trained()) == {name for name, _ in whole.model.named_parameters()}
    whole.model.score.weight.requires_grad_(False)
    assert "score.weight" not in whole.trained() and len(whole.trained()) > 10
    adapted = tiny.sft_adapter()
    on_base = make_critic(adapted, [], None, None)
    names = set(on_base.trained()) - {"score.weight"}
    assert names == {name for name, _ in adapted.named_parameters() if ".critic." in name} <= trainable(adapted)
    assert not on_base.model(states).any() and "score.weight" in on_base.trained()


def test_a_value_model_is_loaded_from_its_path(tmp_path):
    saved = tiny.model(head="score", seed=4)
    saved.save_pretrained(tmp_path)
    critic = make_critic(tiny.model(), [], str(tmp_path), "separate")
    assert tiny.same_weights(tiny.weights(critic.model), tiny.weights(saved)) and critic.trained()


def test_a_value_model_with_an_adapter_trains_the_adapter_and_the_head():
    value_model = tiny.lora_reward_model().requires_grad_(True)
    critic = make_critic(tiny.model(), [], value_model, None)
    assert critic.model is value_model and trainable(value_model)
    assert all("lora_" in name or "score" in name for name in trainable(value_model))
    assert any("score.modules_to_save" in name for name in trainable(value_model))
    value_model = tiny.model(head="score").requires_grad_(False)
    critic = make_critic(tiny.model(), [], value_model, None)
    assert len(critic.trained()) == len(list(value_model.parameters()))


def test_a_critics_gradients_are_clipped_and_cleared_after_the_step():
    critic = torch.nn.Linear(2, 1)
    for limit, expected in [(1.0, 1.0), (0.0, 20.0), (50.0, 20.0)]:
        critic.weight.grad, critic.bias.grad = torch.tensor([[12.0, 16.0]]), torch.zeros(1)
        callback, args = CriticCallback(critic), SimpleNamespace(max_grad_norm=limit)
        callback.on_pre_optimizer_step(args, None, None)
        assert critic.weight.grad.norm().item() == pytest.approx(expected, rel=1e-4)
        callback.on_optimizer_step(args, None, None)
        assert critic.weight.grad is None


def test_a_reward_model_that_reads_text_but_knows_the_tokens_starts_the_critic(tmp_path):
    written = tiny.tokenizer()
    written.chat_template = "{% for m in messages %}{{ m['content'] }} w9 <turn> {% endfor %}"
    judge = tiny.model(head="score", seed=3)
    prompts = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in tiny.prompts()["prompt"]]})
    options = {"reward_funcs": judge, "reward_processing_classes": written}
    run = tiny.trainer(tmp_path, dataset=prompts, **options)
    assert run.rewards[0].reading.ending is None and run.rewards[0].reading.knows_tokens
    assert tiny.same_weights(tiny.weights(run.value_model), tiny.weights(judge))
    evaluated = PPOTrainer(
        tiny.model(), judge, tiny.config(tmp_path), None, {"held out": prompts}, processing_class=tiny.tokenizer()
    )
    assert evaluated.rewards[0].reading.knows_tokens
