"""The points of a frontier: from a PPO stage's log, or from its step checkpoints, sampled and scored again."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignment.durable.read import read_json_lines
from alignment.errors import UserError, unknown
from eval.comparison.standard_errors import mean_se
from eval.frontier.curves import Point

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from eval.generation.generate import Reward, Sampling
    from eval.generation.sampled_rows import Samples
    from eval.harness.run_suite import LoadedModel

logger = logging.getLogger(__name__)
LOGGED_REWARD = re.compile(r"rewards/(.+)/mean")
PROXY, KL = "reward", "kl/completion"
MOST_POINTS = 400  # per log: time and memory of smoothing grow with the square of the points


def logged_points(metrics: Sequence[dict], gold: str | None = None) -> tuple[list[Point], str | None]:
    """Read a point for each logged step that has the reward and the KL.

    If a step was logged twice, before and after a resume, the later line counts. In a log with more than MOST_POINTS
    steps, each point is the mean over several consecutive steps and has the number of the last.

    Args:
        metrics: the lines of metrics.jsonl.
        gold: the NAME of `rewards/NAME/mean`; by default the only logged reward that is not trained on.

    Returns:
        The points, and the name of the gold reward (None without gold).

    Raises:
        UserError: no step has both values, there is no such gold reward, or several could be gold.
    """
    lines = placed_lines(metrics)
    if not lines:
        raise UserError(
            "no logged step has both the reward and the KL",
            expected=f"{PROXY} and {KL}, as the ppo stage logs them if beta is above 0",
            fix="use step checkpoints instead: --prompts SOURCE",
        )
    name = _gold_name(lines, gold)
    keys = [KL, PROXY, *([] if name is None else [f"rewards/{name}/mean"])]
    steps = {line["step"]: [line[key] for key in keys] for line in _with(lines, *keys)}
    size = math.ceil(len(steps) / MOST_POINTS) or 1
    rows = sorted(steps.items())
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [Point(group[-1][0], *np.mean([row for _, row in group], axis=0).tolist()) for group in groups], name


def placed_lines(metrics: Sequence[dict]) -> list[dict]:
    """The lines with a number for both the reward trained on and the KL."""
    return _with(metrics, PROXY, KL)


def watched_rewards(metrics: Sequence[dict]) -> list[str]:
    """The NAMEs in `rewards/NAME/mean` of logged rewards that are not trained on."""
    lines = placed_lines(metrics)
    return [name for name in _logged_rewards(lines) if not _is_trained_on(name, lines)]


def _with(lines: Sequence[dict], *keys: str) -> list[dict]:
    """The lines with a number for each key."""
    return [line for line in lines if all(_is_finite(line.get(key)) for key in keys)]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _logged_rewards(lines: Sequence[dict]) -> list[str]:
    return [match[1] for key in (lines[-1] if lines else ()) if (match := LOGGED_REWARD.fullmatch(key))]


def _is_trained_on(name: str, lines: Sequence[dict]) -> bool:
    """Whether a reward is the only one trained on: equal to the weighted sum of all, up to rounding."""
    pairs = [(line[f"rewards/{name}/mean"], line[PROXY]) for line in _with(lines, f"rewards/{name}/mean")]
    return all(math.isclose(mean, both, rel_tol=1e-4, abs_tol=1e-5) for mean, both in pairs)


def _gold_name(lines: Sequence[dict], gold: str | None) -> str | None:
    if gold is not None:
        found = _logged_rewards(lines)
        if gold not in found:
            raise unknown("logged reward", gold, found)
        return gold
    watched = watched_rewards(lines)
    if len(watched) > 1:
        raise UserError("several logged rewards are not trained on", got=", ".join(watched), expected="--gold NAME")
    return watched[0] if watched else None


def read_metrics(path: Path) -> list[dict]:
    """Read the lines of a stage's metrics.jsonl.

    Raises:
        UserError: the file does not exist.
    """
    if not path.is_file():
        raise UserError(f"no {path}", expected="the folder of a ppo stage, such as runs/tiny/ppo")
    return read_json_lines(path)


def step_checkpoints(stage: Path) -> dict[int, Path]:
    """Return step -> folder of a stage's checkpoints, including the final checkpoint."""
    numbered = {path: path.name.removeprefix("checkpoint-") for path in stage.glob("trainer/checkpoint-*")}
    found = {int(number): path for path, number in numbered.items() if number.isdecimal() and path.is_dir()}
    file = stage / "metrics.jsonl"
    steps = [line["step"] for line in read_metrics(file) if isinstance(line.get("step"), int)]
    if not steps:
        raise UserError(f"{file} logs no step", expected="the metrics of a ppo stage that has trained")
    last = max(steps)
    if (stage / "checkpoint").is_dir():
        found[last] = stage / "checkpoint"
    return dict(sorted(found.items()))


def measured_points(
    checkpoints: dict[int, Path],
    reference: str | Path,
    rows: Sequence[dict],
    format: str,
    sampling: Sampling,
    proxy: Reward,
    gold: Reward | None,
) -> list[Point]:
    """Measure a point for the reference (step 0) and each checkpoint: one scored reply per prompt, and the KL.

    Args:
        checkpoints: step -> folder.
        reference: folder or hub id of the model that training started from.
        rows: {prompt: messages, ...columns}.
        format: plain or chat.
        sampling: temperature and top_p must be 1, because the KL is that of the model's own distribution.
        proxy: the reward trained on.
        gold: the reward that the proxy approximates, if any.

    Raises:
        UserError: the sampling has another temperature or top_p.
    """
    from eval.harness.run_suite import load_checkpoint

    if (sampling.temperature, sampling.top_p) != (1.0, 1.0):
        raise UserError(
            "the KL needs samples of the model's own distribution",
            got=f"temperature {sampling.temperature}, top_p {sampling.top_p}",
            expected="temperature 1 and top_p 1",
        )
    base = load_checkpoint(reference)
    found = [_measured(0, base, None, rows, format, sampling, proxy, gold)]
    for step, checkpoint in checkpoints.items():
        found.append(_measured(step, load_checkpoint(checkpoint), base, rows, format, sampling, proxy, gold))
    return found


def _measured(
    step: int,
    loaded: LoadedModel,
    reference: LoadedModel | None,
    rows: Sequence[dict],
    format: str,
    sampling: Sampling,
    proxy: Reward,
    gold: Reward | None,
) -> Point:
    from eval.generation.sampled_rows import draw

    samples = draw(loaded, rows, format, sampling, 1, proxy)
    if samples.too_long:
        logger.warning(
            "step %d: left out: %d of %d prompts leave no room for a reply (--max_new_tokens)",
            *(step, samples.too_long, len(rows)),
        )
    kl = 0.0 if reference is None else _kl(loaded, reference, samples, format, sampling.batch_size)
    assert samples.scores is not None, "replies drawn with a reward have scores"
    means = {"proxy": _mean(samples, [scores[0] for scores in samples.scores])}
    if gold is not None:
        from eval.generation.generate import score

        means["gold"] = _mean(samples, score(gold, samples.rows, [texts[0] for texts in samples.texts]))
    values = {name: mean for name, (mean, _) in means.items()}
    return Point(step, kl, **values, **{f"{name}_se": error for name, (_, error) in means.items()})


def _mean(samples: Samples, scores: list[float | None]) -> tuple[float, float]:
    """Mean of the scores that are not None, and its standard error over prompts."""
    judged = [place for place, score in enumerate(scores) if score is not None]
    if not judged:
        raise UserError("a reward scored no reply", got="None for all replies", expected="a number for some replies")
    clusters = np.array([json.dumps(samples.rows[place]["prompt"], sort_keys=True) for place in judged])
    values = np.array([scores[place] for place in judged])
    return float(values.mean()), mean_se(values, clusters=clusters)


def _kl(loaded: LoadedModel, reference: LoadedModel, samples: Samples, format: str, batch_size: int) -> float:
    """Unbiased KL estimate in nats: mean over completions of log p(completion) - log p_reference(completion)."""
    from eval.generation.generate import encode_prompts

    model, tokenizer = loaded
    prompts = encode_prompts(tokenizer, [row["prompt"] for row in samples.rows], format)
    completions = [list(replies[0].token_ids) for replies in samples.replies]
    sums = [log_probabilities(policy, prompts, completions, batch_size) for policy in (model, reference[0])]
    return float((sums[0] - sums[1]).mean())


def log_probabilities(
    model: PreTrainedModel, prompts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int
) -> torch.Tensor:
    """Return (n,) the log-probability of each completion (token ids) after its prompt, in nats."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor(prompt + completion) for prompt, completion in zip(prompts, completions, strict=True)]
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    sums = torch.zeros(len(rows), dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            ids = pad_sequence([rows[place] for place in batch], batch_first=True).to(model.device)
            mask = pad_sequence([torch.ones_like(rows[place]) for place in batch], batch_first=True).to(model.device)
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].cpu()
            for place, values in zip(batch, chosen, strict=True):
                first = len(prompts[place]) - 1
                sums[place] = values[first : first + len(completions[place])].double().sum()
    return sums
