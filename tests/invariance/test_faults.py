"""The suite bites: every planted fault is found by the check that is there for its kind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import data_cases
import evaluation_cases
import halved_runs
import pytest
import router_cases
import score_cases
import stage_cases
import tiny_stages
import two_threads
from planted import plant
from ppo_cases import Case, Setting, check_alone, check_step
from stage_cases import Case as StageCase
from stage_cases import Setting as StageSetting

import eval.generation.generate
import eval.harness.lm
import reward_models.card.pairwise
import reward_models.learned
from alignment.data.preparing import filters
from alignment.data.tokenizing import packing, tokens, windows
from alignment.models.gpt import modeling_gpt
from alignment.pipeline import recovery
from alignment.trainers.ppo import experience, maths, models, rewards, rollout, scorers, trainer
from alignment.trainers.ppo.schedule import RolloutSchedule
from alignment.trainers.ppo.trainer import PPOTrainer
from alignment.trainers.pretrain import chunked_loss
from alignment.trainers.pretrain.trainer import PretrainTrainer
from reward_models.judges.local import LocalJudge

MIXED = (3, 0, 6, 1, 7, 2, 5, 4)
TWELVE = (5, 0, 11, 7, 2, 9, 1, 10, 3, 8, 4, 6)


@dataclass(frozen=True)
class Place:
    """What a check may need: where models are, where it may write, and a monkeypatch."""

    bases: Path
    out: Path
    monkeypatch: pytest.MonkeyPatch


Planting = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[Place], None]


def text(owner, name: str, *replacements: tuple[str, str]) -> Planting:
    return lambda monkeypatch: plant(monkeypatch, owner, name, *replacements)


def value(owner, name: str, new) -> Planting:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, new)


def step(eval_batch: int = 3, micro_batch: int = 2, order: int = 1, keys: dict | None = None, **case) -> Check:
    setting = Setting(eval_batch=eval_batch, micro_batch=micro_batch, order=order)
    return lambda at: check_step(Case(**case), setting, at.bases, at.monkeypatch, **keys or {})


def trl(check: Callable, micro_batch: int = 1, keys: dict | None = None, **case) -> Check:
    setting = StageSetting(micro_batch=micro_batch, order=1)
    return lambda at: check(StageCase(**case), setting, at.bases, at.out, **keys or {})


def scored(check: Callable, **row) -> Check:
    return lambda at: check(**{"kind": "gpt", "name": "ours", "batch_size": 3, "order": MIXED} | row)


def evaluated(check: Callable, **row) -> Check:
    return lambda at: check(**{"kind": "gpt", "name": "ours", "batch_size": 3, "order": TWELVE} | row)


def rolled_out(at: Place) -> None:
    evaluation_cases.check_rollout("gpt", "ours", 3, TWELVE, monkeypatch=at.monkeypatch)


def halved(at: Place) -> None:
    parents = at.bases / "parents"
    if not parents.exists():
        tiny_stages.make(parents)
    halved_runs.check_halved("sft", parents, at.out, at.monkeypatch)


def old_chunked(function, rollout, batch_size: int):
    """`chunked` as it was: columns that a batch lacks are 0 in front, and whoever asks for column 0 gets those."""
    result = None
    for rows in rollout.lengths.argsort(descending=True, stable=True).split(batch_size):
        batch = rollout.batch(rows)
        part = function(batch)
        if result is None:
            extra = part.shape[1] - batch["completion_mask"].shape[1]
            columns = rollout.completion_mask.shape[1] + extra
            result = part.new_zeros(len(rollout.lengths), columns, *part.shape[2:])
        result[rows, result.shape[1] - part.shape[1] :] = part
    return result


def column_0(self, samples):
    """The fault that an audit found: rewards of exactly 0 wherever a batch held no longest completion."""
    rollout = samples.rollout
    batch_size = min(self.batch_size, len(rollout.lengths))
    return old_chunked(lambda batch: self.scorer.outputs(batch), rollout, batch_size)[:, 0].detach()


compute_loss = PretrainTrainer.compute_loss


def mean_of_the_micro_batch(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    """A loss that does not know how many tokens its optimizer step has."""
    return compute_loss(self, model, inputs, return_outputs)


# Where the batches of `generate` are made.
GENERATE = (
    (eval.generation.generate, "_replies")
    if hasattr(eval.generation.generate, "_replies")
    else (evaluation_cases, "generate")
)
COUNT = "self._num_tokens = self.total(loss_mask[minibatch].sum()).clamp(min=1)"
SUM = "total((values * mask).sum()) / total(mask.sum()).clamp(min=1)"
EVERYONES = "self.total(torch.tensor(len(minibatch)))"

FAULTS: dict[str, tuple[Planting, Check]] = {
    # PPO's rewards
    "column 0 put back": (value(rewards.ModelReward, "__call__", column_0), step()),
    "the scorer ignores the attention mask": (
        text(
            scorers,
            "trunk_states",
            ('attention_mask=batch["attention_mask"],', "attention_mask=torch.ones_like(batch['attention_mask']),"),
        ),
        step(),
    ),
    "rewards stay in the order of their lengths": (
        text(rewards.ModelReward, "__call__", ("scores[batch] =", "scores[start : start + len(batch)] =")),
        step(),
    ),
    "the reward is read at the last column, padding's token or not": (
        text(
            scorers,
            "score_index",
            ("attention_mask.bool() & (input_ids != pad_token_id)", "attention_mask.bool()"),
        ),
        step(tokenizer="pad-is-eos"),
    ),
    "the row of a reward model lacks what its template writes at the end": (
        text(rewards.Reading, "rows", ("(row[:-1] if is_ended else row) + self.ending", "row")),
        step(tokenizer="chatml"),
    ),
    "a reward model on the policy's base is read under the policy's adapter": (
        text(
            scorers.AdapterScorer,
            "scores",
            ("with adapter(self.policy, *self.names):", "with adapter(self.policy, 'default'):"),
        ),
        step(adapter=True, reward="adapter"),
    ),
    # PPO's log-probabilities, values and KL
    "positions count the padding": (
        text(
            models,
            "position_ids",
            (
                "(attention_mask.long().cumsum(-1) - 1).clamp(min=0)",
                "torch.arange(attention_mask.shape[1]).expand_as(attention_mask)",
            ),
        ),
        step(model="learned"),
    ),
    "chunks stay in the order of their lengths": (
        text(
            experience,
            "chunked",
            ("for rows in rollout", "for number, rows in enumerate(rollout"),
            (".split(batch_size):", ".split(batch_size)):"),
            ("result[rows, result", "result[number * batch_size : number * batch_size + len(rows), result"),
        ),
        step(),
    ),
    "chunks are put at the wrong end": (
        text(experience, "chunked", ("result.shape[1] - part.shape[1] :]", ": part.shape[1]]")),
        step(),
    ),
    "a rollout's batch is cut one column short": (
        text(rollout.Rollout, "batch", ("int(self.lengths[rows].max())", "int(self.lengths[rows].max()) - 1")),
        step(),
    ),
    "the reference has no temperature": (
        text(experience, "reference_log_probs", ("batch, temperature)", "batch, 1.0)")),
        step(),
    ),
    "the reference is the base, not the parent's adapter": (
        text(
            models.Reference,
            "active",
            ("with adapter(self.policy, self.adapter):", "with self.policy.disable_adapter():"),
        ),
        step(adapter=True),
    ),
    "the KL of a completion has padding in it": (
        text(
            trainer,
            "add_log_probs",
            ("((log_probs - ref_log_probs) * mask).sum(1)", "(log_probs - ref_log_probs).sum(1)"),
        ),
        step(eval_batch=8),
    ),
    "values are those after each token": (
        text(trainer, "make_targets", ("values = outputs[:, :-1] * mask", "values = outputs[:, 1:] * mask")),
        step(),
    ),
    # PPO's advantages and losses
    "the score stands a token before the last": (
        text(maths, "last_token", ("mask.shape[1] - 1 -", "mask.shape[1] - 2 -")),
        step(),
    ),
    "the advantages' mask is off by one": (
        text(
            maths,
            "gae",
            ("lam * next_advantage) * mask[:, t]", "lam * next_advantage) * mask[:, t - 1]"),
        ),
        step(),
    ),
    "advantages are whitened with the padding": (
        text(maths, "whiten", ("masked_mean(values, mask, total)", "masked_mean(values, mask | True, total)")),
        step(),
    ),
    "advantages are whitened by the micro-batch": (
        text(
            trainer,
            "policy_loss",
            ('batch["advantages"], args', 'maths.whiten(batch["advantages"], batch["loss_mask"]), args'),
        ),
        step(),
    ),
    "the loss is a mean over the micro-batch": (
        text(
            RolloutSchedule,
            "next_micro_batch",
            (
                "return self._micro_batches[place], self._num_tokens",
                "rows = self._micro_batches[place]\n"
                "    return rows, loss_mask[rows].sum() * args.gradient_accumulation_steps",
            ),
        ),
        step(),
    ),
    "the loss is divided by rows": (
        text(RolloutSchedule, "next_micro_batch", (COUNT, f"self._num_tokens = {EVERYONES}")),
        step(),
    ),
    "accumulation divides once more": (value(PPOTrainer, "loss_is_scaled_for_ga", False), step()),
    "the critic reads and trains the policy's adapter too": (
        text(
            scorers,
            "_adapter_critic",
            (
                "AdapterScorer(policy, CRITIC_ADAPTER, head, below)",
                "AdapterScorer(policy, CRITIC_ADAPTER, head, ['default'])",
            ),
        ),
        step(adapter=True, critic="lora"),
    ),
    "a row's reward is that of the rollout": (
        text(rewards, "combine", ("stacked.nansum(1)", "stacked.nansum(1).mean().expand(len(stacked))")),
        lambda at: check_alone(Case(), Setting(eval_batch=3, micro_batch=2), at.bases, at.monkeypatch),
    ),
    # PPO's processes
    "means are averaged over processes": (
        text(maths, "masked_mean", (SUM, "total((values * mask).sum() / mask.sum().clamp(min=1)) / 2")),
        lambda at: two_threads.check_totals([1, 5, 2, 9, 3], 1),
    ),
    "each process whitens its own": (
        text(experience.maths, "whiten", ("masked_variance(values, mask, total)", "masked_variance(values, mask)")),
        lambda at: two_threads.check_totals([1, 5, 2, 9, 3], 1),
    ),
    # Pretraining and TRL's stages
    "packed documents read each other": (
        text(packing, "unfold", ("position_ids[:filled] -= np.repeat(starts, lengths)", "pass")),
        trl(stage_cases.check_pretrain),
    ),
    "labels are masked one place too far": (
        text(packing, "unfold", ("labels[starts] = IGNORED", "labels[np.minimum(starts + 1, filled - 1)] = IGNORED")),
        trl(stage_cases.check_pretrain),
    ),
    "the last chunk has no loss": (
        text(
            chunked_loss._LinearCrossEntropy,
            "forward",
            ("range(0, len(hidden), chunk_size)", "range(0, len(hidden) - chunk_size, chunk_size)"),
        ),
        trl(stage_cases.check_pretrain, keys={"loss_chunk_size": 7}),
    ),
    "chunks are a mean over the micro-batch": (
        value(PretrainTrainer, "compute_loss", mean_of_the_micro_batch),
        trl(stage_cases.check_pretrain, keys={"loss_chunk_size": 7}),
    ),
    "pretraining's loss is a mean over the micro-batch": (
        value(PretrainTrainer, "compute_loss", mean_of_the_micro_batch),
        trl(stage_cases.check_pretrain),
    ),
    "the validation loss is a mean of the batches'": (
        text(
            PretrainTrainer,
            "_summed_loss" if hasattr(PretrainTrainer, "_summed_loss") else "evaluate",
            ("total += loss * counted if counted else 0.0", "total += loss"),
            ("tokens += counted", "tokens += 1"),
        ),
        lambda at: stage_cases.check_validation(StageCase(), 2, at.bases, at.out),
    ),
    "learned positions count the padding": (
        text(modeling_gpt.GPTModel, "_positions", ("attention_mask.ndim == 2", "attention_mask.ndim == 9")),
        lambda at: stage_cases.check_grpo(
            StageCase("learned"), StageSetting(micro_batch=8), at.bases, at.out, at.monkeypatch
        ),
    ),
    "the routers' balance has padding in it": (
        text(
            modeling_gpt,
            "router_losses",
            ("config.num_experts_per_tok, attention_mask)", "config.num_experts_per_tok)"),
        ),
        lambda at: router_cases.check_padding(at.bases),
    ),
    "halving the micro-batch halves the optimizer batch": (
        text(
            recovery,
            "smaller_micro_batch",
            ("args.gradient_accumulation_steps * factor", "args.gradient_accumulation_steps"),
        ),
        halved,
    ),
    # Rewards and judges
    "learned rewards stay in the order of their lengths": (
        text(reward_models.learned, "score_rows", ("scores[batch] =", "scores[start : start + len(batch)] =")),
        scored(score_cases.check_learned),
    ),
    "a judge's answers stay in the order of their questions' lengths": (
        text(LocalJudge, "answer_probabilities", ("result[batch] =", "result[start : start + len(batch)] =")),
        scored(score_cases.check_judge),
    ),
    "a judge's positions count the padding": (
        text(
            LocalJudge,
            "answer_probabilities",
            ('padded["attention_mask"].cumsum(1) - 1', 'torch.ones_like(padded["attention_mask"]).cumsum(1) - 1'),
        ),
        scored(score_cases.check_judge, kind="learned"),
    ),
    "a card's gold labels are another pair's": (
        text(
            reward_models.card.pairwise,
            "score_pairs",
            ("gold_gaps=gold_gaps(pairs)", "gold_gaps=gold_gaps(pairs)[::-1]"),
        ),
        scored(score_cases.check_card),
    ),
    "the best of n is picked by another prompt's scores": (
        text(
            score_cases,
            "best_of_n",
            ("zip(proxy, gold, strict=True)", "zip(proxy, [*gold[1:], gold[0]], strict=True)"),
        ),
        lambda at: score_cases.check_best_of_n([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]], [[0.1, 0.2, 0.3], [0.5, 0.9, 0.7]]),
    ),
    # Evaluation
    "log-likelihoods are padded on the left": (
        text(
            eval.harness.lm.CausalLM,
            "_logits",
            ("[*ids, *[0] * (width - len(ids))]", "[*[0] * (width - len(ids)), *ids]"),
        ),
        evaluated(evaluation_cases.check_log_likelihoods),
    ),
    "log-likelihoods are read one place too early": (
        text(eval.harness.lm.CausalLM, "_score_batch", ("len(ids) + k - first", "len(ids) + k - first - 1")),
        evaluated(evaluation_cases.check_log_likelihoods),
    ),
    "log-likelihoods stay in the order of their lengths": (
        text(
            eval.harness.lm.CausalLM,
            "_loglikelihood_tokens",
            ("zip((i for _, i in asked)", "zip(range(len(found), len(found) + len(asked))"),
        ),
        evaluated(evaluation_cases.check_log_likelihoods),
    ),
    "texts' log-likelihoods stay in the order of their lengths": (
        text(
            eval.harness.lm.CausalLM,
            "loglikelihood_rolling",
            ("[total for _, total in sorted(zip(order, sums, strict=True))]", "sums"),
        ),
        evaluated(evaluation_cases.check_rolling),
    ),
    "replies are generated after padding on the right": (
        text(
            eval.harness.lm.CausalLM,
            "_padded",
            (
                "[self.padding] * (width - len(prompt)) + prompt for",
                "prompt + [self.padding] * (width - len(prompt)) for",
            ),
            ("[0] * (width - len(prompt)) + [1] * len(prompt)", "[1] * len(prompt) + [0] * (width - len(prompt))"),
        ),
        evaluated(evaluation_cases.check_greedy),
    ),
    "replies stay in the order of their prompts' lengths": (
        text(
            *GENERATE,
            ("in zip(batch, lm.reply(", "in zip(range(start, start + len(batch)), lm.reply("),
        ),
        evaluated(evaluation_cases.check_greedy),
    ),
    "sampling is seeded by the place in the batch": (
        text(
            *GENERATE,
            ("keyed_sampler([keys[row] for row in batch]", "keyed_sampler([*enumerate(batch)]"),
        ),
        evaluated(evaluation_cases.check_sampled),
    ),
    "a rollout's rows are moved one column too few": (
        text(
            rollout,
            "_to_rollout",
            ("shift = (total - width - lengths)[:, None]", "shift = (total - width - lengths - 1)[:, None]"),
        ),
        rolled_out,
    ),
    "PPO samples after padding on the right": (
        text(rollout, "sample", ("[pad_token_id] * pad + prompt for", "prompt + [pad_token_id] * pad for")),
        rolled_out,
    ),
    # Data
    "a batch of documents overtakes another": (
        text(
            tokens,
            "in_order",
            ("yield pending.popleft().result()\n        while", "yield pending.pop().result()\n        while"),
        ),
        lambda at: data_cases.check_tokenization("ours", 50, 3, at.out, at.monkeypatch),
    ),
    "windows skip a token where a shard ends": (
        text(
            windows.TokenWindows,
            "_tokens",
            ("max(start - self.starts[part], 0) : end", "max(start - self.starts[part], 1) : end"),
        ),
        lambda at: data_cases.check_windows(60, at.out, at.monkeypatch),
    ),
    "an item of a suite is found across two texts": (
        text(filters, "_owners", ("& (start + length <= ends[row[: len(hashes)]])", "")),
        lambda at: data_cases.check_filters(list(range(20)), at.monkeypatch),
    ),
    "a filter numbers the rows of each batch anew": (
        text(filters, "without_items", ("first += len(batch)", "first += 0")),
        lambda at: data_cases.check_filters(list(range(20)), at.monkeypatch),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name, bases, tmp_path, monkeypatch):
    planting, check = FAULTS[name]
    planting(monkeypatch)
    with pytest.raises(AssertionError):
        check(Place(bases, tmp_path, monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_without_its_fault_the_check_holds(name, bases, tmp_path, monkeypatch):
    FAULTS[name][1](Place(bases, tmp_path, monkeypatch))
