"""A PPO step on a scripted, ragged rollout in any setting, and the same step computed row by row without padding."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import ppo_tiny
import ragged
import torch
from compared import assert_close, assert_same_gradients
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from alignment.models.loading import REFERENCE_ADAPTER, load_trainable
from alignment.trainers.ppo import rollout
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.models import adapter, inner
from alignment.trainers.ppo.scorers import CRITIC_ADAPTER, AdapterScorer, HeadScorer
from alignment.trainers.ppo.trainer import PPOTrainer

KEYS = {"beta": 0.3, "gamma": 0.95, "lam": 0.9, "temperature": 0.7, "vf_coef": 0.5, "missing_eos_penalty": 0.5}
KEYS |= {"max_completion_length": ragged.LONGEST, "num_iterations": 1, "max_steps": 1, "max_grad_norm": 1e9}
KEYS |= {"learning_rate": 1e-3, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
KEYS |= {"log_completions": True, "num_completions_to_print": 0, "bf16": False}


@dataclass(frozen=True)
class Case:
    """A configuration of a run that may change its results."""

    model: str = "gpt"
    adapter: bool = False
    critic: str = "separate"
    reward: str = "model"  # model, adapter (on the policy's base), text (of another tokenizer), function
    tokenizer: str = "ours"


@dataclass(frozen=True)
class Setting:
    """Settings that must not change the results."""

    eval_batch: int = 8
    micro_batch: int = 8  # of 8 rows, with as much accumulation as completes them
    order: int = 0  # seed of the rows' order; 0: as they are
    padding: int = 0  # columns more than are needed
    attention: str = "sdpa"


def allowed(row: dict) -> bool:
    """Whether the combination is possible: critics and rewards that are adapters need a policy with an adapter."""
    return row.get("adapter") is not False or (row.get("critic") != "lora" and row.get("reward") != "adapter")


CASES = {
    "model": list(ragged.MODELS),
    "adapter": [False, True],
    "critic": ["separate", "shared_head", "lora"],
    "reward": ["model", "adapter", "text", "function"],
    "tokenizer": list(ragged.TOKENIZERS),
}
SETTINGS = {
    "eval_batch": [1, 2, 3, 5, 8, 16],
    "micro_batch": [8, 4, 2, 1],
    "order": [0, 1],
    "padding": [0, 3],
    "attention": ["sdpa", "eager"],
}


def scripted(completions: dict[tuple[int, ...], list[int]], padding: int = 0):
    """A sampler that gives each prompt its fixed completion."""

    def sample(model, prompts, *, eos_token_ids, pad_token_id, **options) -> rollout.Rollout:
        replies = [completions[tuple(prompt)] for prompt in prompts]
        width, longest = max(map(len, prompts)) + padding, max(map(len, replies))
        rows = [
            [pad_token_id] * (width - len(prompt)) + prompt + reply + [pad_token_id] * (longest - len(reply))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        mask = torch.tensor([[column >= width - len(prompt) for column in range(width)] for prompt in prompts])
        return rollout._to_rollout(torch.tensor(rows), mask, torch.tensor(eos_token_ids))

    return sample


def length_mod_seven(completion_ids, **columns) -> list[float]:
    return [float(sum(ids) % 7) for ids in completion_ids]


def policy_of(case: Case, folder: Path):
    """The policy; an adapter also has an adapter `ref`, on a saved base that rewards may share."""
    words = ragged.tokenizer(case.tokenizer)
    if not case.adapter:
        return ragged.model(case.model, words)
    return ragged.adapted(AutoModelForCausalLM.from_pretrained(base_of(case, folder)), 1, "ref", task_type="CAUSAL_LM")


def base_of(case: Case, folder: Path) -> str:
    place = folder / f"{case.model}-{case.tokenizer}"
    if not place.exists():
        words = ragged.tokenizer(case.tokenizer)
        ragged.model(case.model, words).save_pretrained(place)
        words.save_pretrained(place)
    return str(place)


def judge_adapter(case: Case, folder: Path) -> str:
    """The folder of a reward model that is an adapter on the policy's base."""
    place = folder / f"judge-{case.model}-{case.tokenizer}"
    if not place.exists():
        base = load_trainable(base_of(case, folder), "sequence-classification")
        torch.manual_seed(5)
        judge = get_peft_model(base, ragged.lora(task_type="SEQ_CLS", modules_to_save=["score"]))
        ragged.stirred(ragged.stirred(judge, 5), 6, "score")
        judge.save_pretrained(place)
        ragged.tokenizer(case.tokenizer).save_pretrained(place)
    return str(place)


def other_tokenizer(case: Case) -> str:
    return "chatml" if case.tokenizer == "ours" else "ours"


def reward_of(case: Case, folder: Path):
    """(reward, its tokenizer) as PPOTrainer takes them."""
    if case.reward == "function":
        return length_mod_seven, None
    if case.reward == "adapter":
        return judge_adapter(case, folder), None
    words = ragged.tokenizer(other_tokenizer(case) if case.reward == "text" else case.tokenizer)
    return ragged.model(case.model, words, "score", seed=3), words


def make(
    case: Case, setting: Setting, folder: Path, monkeypatch, talks=tuple(ragged.TALKS), texts=None, **keys
) -> PPOTrainer:
    """The trainer of a case in a setting; critic and reference differ from their initial weights."""
    words = ragged.tokenizer(case.tokenizer)
    replies = ragged.completions(case.tokenizer, words, talks)
    monkeypatch.setitem(rollout.SAMPLERS, "generate", scripted(replies, setting.padding))
    order = list(range(len(talks)))
    if setting.order:
        order = torch.randperm(len(talks), generator=torch.Generator().manual_seed(setting.order)).tolist()
    rows = Dataset.from_list([{"prompt": ragged.ask(talks[place][0])} for place in order])
    micro = min(setting.micro_batch, len(talks))
    sizes = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": len(talks) // micro,
        "per_device_eval_batch_size": setting.eval_batch,
    }
    policy, (reward, tokenizer) = policy_of(case, folder), reward_of(case, folder)
    policy.generation_config.eos_token_id = [words.convert_tokens_to_ids(ragged.END[case.tokenizer])]
    value_model = None
    if case.critic == "separate":
        value_model = ragged.model(case.model, words, "score", seed=4)
    run = PPOTrainer(
        policy,
        reward,
        PPOConfig(str(folder / "run"), **KEYS | sizes | {"critic_mode": case.critic} | keys),
        rows,
        processing_class=words,
        reward_processing_classes=[tokenizer],
        value_model=value_model,
        ptx_dataset=texts,
        ref_model=None if case.adapter else ragged.model(case.model, words, seed=2),
    )
    if case.critic != "separate":
        ragged.stirred(run.critic.model, 7, "weight")
    if case.critic == "lora":
        ragged.stirred(run.model, 8, "lora_B.critic")
    for one in {id(m): m for m in (inner(run.model), inner(run.value_model)) if hasattr(m, "config")}.values():
        one.set_attn_implementation(setting.attention)
    return run


@dataclass
class Step:
    """Values, metrics and gradients of an optimizer step, rows in the order of the talks."""

    rows: dict[str, list]  # (B,) numbers, or lists of numbers per completion token
    figures: dict[str, float]
    policy: dict[str, Tensor]
    critic: dict[str, Tensor]


def step(run: PPOTrainer, case: Case, talks=tuple(ragged.TALKS)) -> Step:
    """Train a step, and return its rollout, log entry and gradients."""
    callback = ppo_tiny.Gradients()
    callback.trainer = run
    run.add_callback(callback)
    file = Path(run.args.output_dir) / "completions.jsonl"
    file.unlink(missing_ok=True)
    run.train()
    words, experience = ragged.tokenizer(case.tokenizer), run.experience
    rollout, tokens = experience.rollout, {"old_log_probs": experience.old_log_probs, **vars(experience.targets)}
    places = {tuple(ids): place for place, ids in enumerate(full_ids(case, words, talks))}
    order = [places[tuple(ids)] for ids in rollout.token_ids]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    rewards = [next(iter(line["rewards"].values())) for line in lines]
    rows: dict[str, list] = {"rewards": in_place(order, rewards)}
    for name in ("old_values", "old_log_probs", "advantages", "returns"):
        values = [row[mask].tolist() for row, mask in zip(tokens[name], rollout.completion_mask, strict=True)]
        rows[name] = in_place(order, values)
    [[policy, critic]] = callback.steps
    return Step(rows, run.state.log_history[0], policy, critic)


def full_ids(case: Case, words, talks) -> list[list[int]]:
    replies = ragged.completions(case.tokenizer, words, talks)
    return [[*prompt, *reply] for prompt, reply in replies.items()]


def in_place(order: list[int], values: list) -> list:
    return [value for _, value in sorted(zip(order, values, strict=True), key=lambda pair: pair[0])]


# The same, row by row ------------------------------------------------------------------------------------------------


def expected(run: PPOTrainer, case: Case, folder: Path, talks=tuple(ragged.TALKS)) -> Step:
    """The expected first step of a run, computed row by row with plain loops, without mask and padding."""
    args, words = run.args, ragged.tokenizer(case.tokenizer)
    pairs = list(ragged.completions(case.tokenizer, words, talks).items())
    rewards = [expected_reward(case, folder, words, talk, pair) for talk, pair in zip(talks, pairs, strict=True)]
    rows: dict[str, list] = {"rewards": rewards}
    rows |= {name: [] for name in ("old_values", "old_log_probs", "advantages", "returns")}
    divergences, graphs = [], []
    for (prompt, reply), (_, _, ended), reward in zip(pairs, talks, rewards, strict=True):
        ids = torch.tensor([[*prompt, *reply]])
        log_probs = reply_log_probs(run.model, ids, len(reply), args.temperature)
        with torch.no_grad(), reference_of(run) as reference:
            divergence = log_probs.detach() - reply_log_probs(reference, ids, len(reply), args.temperature)
        values = reply_values(run, ids, len(reply))
        score = reward - (0.0 if ended else args.missing_eos_penalty)
        advantages, returns = looped_gae(
            [score * (t == len(reply) - 1) - args.beta * kl for t, kl in enumerate(divergence.tolist())],
            values.tolist(),
            args.gamma,
            args.lam,
        )
        divergences.append(divergence.sum().item())
        graphs.append((log_probs, values))
        for name, found in zip(("old_values", "old_log_probs"), (values, log_probs), strict=True):
            rows[name].append(found.tolist())
        rows["advantages"].append(advantages)
        rows["returns"].append(returns)
    if args.whiten_advantages:
        rows["advantages"] = whitened(rows["advantages"])
    tokens = sum(map(len, rows["returns"]))
    parts = [
        losses(*graph, advantages, returns)
        for graph, advantages, returns in zip(graphs, rows["advantages"], rows["returns"], strict=True)
    ]
    policy_loss, value_loss = (sum(part[place] for part in parts) / tokens for place in range(2))
    figures = {
        "reward": sum(rewards) / len(rewards),
        "kl/completion": sum(divergences) / len(divergences),
        "loss/policy": policy_loss.item(),
        "loss/value": value_loss.item(),
        "loss": (policy_loss + args.vf_coef * value_loss).item(),
    }
    policy, critic = gradients_of(run, policy_loss, args.vf_coef * value_loss)
    return Step(rows, figures, policy, critic)


def expected_reward(case: Case, folder: Path, words, talk, pair) -> float:
    """The score of the classifier on the row that it was trained on, or of the reward function."""
    prompt, reply = pair
    if case.reward == "function":
        return length_mod_seven([reply])[0]
    ends = talk[2]
    if case.reward == "text":
        other = ragged.tokenizer(other_tokenizer(case))
        text = words.decode(reply, skip_special_tokens=True)
        ids = other.apply_chat_template(ragged.ask(talk[0]) + ragged.say(text), return_dict=True)["input_ids"]
    else:
        name = case.tokenizer
        ending = words(ragged.END[name] + ragged.AFTER[name], add_special_tokens=False)["input_ids"]
        ids = [*prompt, *(reply[:-1] if ends else reply), *ending]
    judge = judge_of(case, folder)
    with torch.no_grad():
        return judge(torch.tensor([ids])).logits.item()


def judge_of(case: Case, folder: Path):
    if case.reward == "adapter":
        model = load_trainable(judge_adapter(case, folder), "sequence-classification").eval()
        model.config.pad_token_id = inner(model).config.pad_token_id = ragged.tokenizer(case.tokenizer).pad_token_id
        return model
    return reward_of(case, folder)[0].eval()


def reply_log_probs(model, ids: Tensor, length: int, temperature: float) -> Tensor:
    logits = model(input_ids=ids).logits[0, -length - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(1, ids[0, -length:, None])[:, 0]


def reference_of(run: PPOTrainer):
    """A context that yields the model that the KL is measured against."""
    if run.reference.model is None:
        return adapter(run.model, REFERENCE_ADAPTER)
    return nullcontext(run.reference.model)


def reply_values(run: PPOTrainer, ids: Tensor, length: int) -> Tensor:
    """The critic's value before each token of the reply."""
    critic = run.critic
    if isinstance(critic, HeadScorer):
        return critic.model(inner(run.model).base_model(ids).last_hidden_state[0, -length - 1 : -1])[:, 0]
    if isinstance(critic, AdapterScorer):
        with adapter(critic.policy, CRITIC_ADAPTER):
            return critic.model(inner(critic.policy).base_model(ids).last_hidden_state[0, -length - 1 : -1])[:, 0]
    model = inner(critic.model)
    return model.score(model.base_model(ids).last_hidden_state[0, -length - 1 : -1])[:, 0]


def looped_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> tuple[list[float], list[float]]:
    advantages, following, value_after = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        following = reward + gamma * value_after - value + gamma * lam * following
        value_after = value
        advantages.append(following)
    advantages.reverse()
    return advantages, [one + value for one, value in zip(advantages, values, strict=True)]


def whitened(advantages: list[list[float]]) -> list[list[float]]:
    """Normalise to mean 0 and variance 1 over all tokens of all rows."""
    flat = torch.tensor([one for row in advantages for one in row], dtype=torch.float64)
    mean, spread = flat.mean().item(), flat.std(correction=0).item()
    return [[(one - mean) / spread for one in row] for row in advantages]


def losses(log_probs: Tensor, values: Tensor, advantages: list[float], returns: list[float]) -> tuple[Tensor, Tensor]:
    """Policy and value loss summed over a row's tokens at the first step, at which the ratio is 1."""
    ratio = (log_probs - log_probs.detach()).exp()
    return -(ratio * torch.tensor(advantages)).sum(), 0.5 * ((values - torch.tensor(returns)) ** 2).sum()


def gradients_of(run: PPOTrainer, policy_loss: Tensor, value_loss: Tensor) -> tuple[dict, dict]:
    """Gradients of the policy (with the value loss if they share the trunk) and of the critic."""
    own = run.critic.trained()
    taken = {id(parameter) for parameter in own.values()}
    policy = {n: p for n, p in run.model.named_parameters() if p.requires_grad and id(p) not in taken}
    total = policy_loss + value_loss if isinstance(run.critic, HeadScorer) else policy_loss
    return grads(total, policy), grads(value_loss, own)


def grads(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: one for name, one in zip(parameters, found, strict=True) if one is not None}


# Checks --------------------------------------------------------------------------------------------------------------


def check_step(case: Case, setting: Setting, folder: Path, monkeypatch, talks=tuple(ragged.TALKS), **keys) -> None:
    """Check that a step in this setting equals the step computed row by row."""
    run = make(case, setting, folder, monkeypatch, talks, **keys)
    wanted = expected(run, case, folder, talks)
    found = step(run, case, talks)
    for name, rows in wanted.rows.items():
        flat = [side if name == "rewards" else [*chain.from_iterable(side)] for side in (found.rows[name], rows)]
        assert_close(*flat, name, 1e-4 if name in ("advantages", "returns") else 2e-5)
    for name, value in wanted.figures.items():
        assert_close([found.figures[name]], [value], name, 1e-4)
    assert_same_gradients(found.policy, wanted.policy, "the policy's gradients")
    assert_same_gradients(found.critic, wanted.critic, "the critic's gradients")


def check_alone(case: Case, setting: Setting, folder: Path, monkeypatch) -> None:
    """Check that rewards, values and log-probabilities of a row equal those of a rollout of this row alone."""
    together = step(make(case, setting, folder, monkeypatch, whiten_advantages=False), case)
    for place in (0, 3, 6):
        talks = (ragged.TALKS[place],)
        alone = step(
            make(case, replace(setting, micro_batch=1), folder, monkeypatch, talks, whiten_advantages=False),
            case,
            talks,
        )
        for name, rows in alone.rows.items():
            assert_close(together.rows[name][place], rows[0], f"{name} of row {place}")
