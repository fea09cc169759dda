"""Rewards and prompts of the stages that sample: rewards from a recipe, prompts that leave room for a completion."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from alignment.data.preparing.filters import row_lengths
from alignment.data.tokenizing.length_advice import RowLength, completion_fix
from alignment.errors import UserError, gathered, raise_all
from alignment.models.context_length import context_length
from alignment.stages.shared.inputs import record_tokens, refusals_named
from alignment.trainers.ppo.rollout import encode_prompts
from reward_models.calls import Checked
from reward_models.functions import check_function, load_reward

logger = logging.getLogger(__name__)


@dataclass
class RewardSources:
    """The rewards of completions; `reward_weights` are in this order: the model, then the functions."""

    reward_model_path: str | None = field(default=None, metadata={"help": "A reward model's checkpoint."})
    reward_funcs: list[str] = field(
        default_factory=list,
        metadata={"help": "Functions: path/to/file.py:name or package.module:name, with options ?key=value&key=value."},
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "A weight per reward: the reward model's first."}
    )

    def __post_init__(self):
        errors = [*self._mistakes()]
        for spec in self.reward_funcs:
            with gathered(errors):
                check_function(spec)  # a misspelt name is found before any stage runs
        raise_all(errors)

    def _mistakes(self) -> Iterator[UserError]:
        rewards = [self.reward_model_path, *self.reward_funcs] if self.reward_model_path else self.reward_funcs
        weights = self.reward_weights
        if not rewards:
            yield UserError("the recipe has no reward", expected="reward_model_path, reward_funcs or both")
        elif weights is not None and len(weights) != len(rewards):
            yield UserError(
                "reward_weights does not fit the rewards",
                got=f"{weights} for {', '.join(rewards)}",
                expected="a weight for the reward model if there is one, then one for each function",
                fix="reward_weights: null weighs each by 1",
            )
        elif weights is not None and not all(map(math.isfinite, weights)):
            yield UserError("reward_weights has a weight that is not finite", got=weights, expected="finite numbers")
        elif weights is not None and not any(weights):
            yield UserError("every reward has the weight 0, so that nothing is rewarded", got=weights)


def load_rewards(specs: Sequence[str], splits: DatasetDict) -> list[Checked]:
    """Load reward functions that can be called with the columns of the prompts.

    Raises:
        UserError: names each function that needs another column, or is no reward function.
    """
    errors: list[UserError] = []
    rewards = []
    for spec in specs:
        with gathered(errors):
            rewards.append(load_reward(spec))
            rewards[-1].require_columns(splits["train"].column_names)
    raise_all(errors)
    return rewards


def without_long_prompts(
    splits: DatasetDict,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_completion_length: int,
    stage_dir: Path | None = None,
    context: int | None = None,
) -> DatasetDict:
    """Return the prompts that leave room for a completion in the model's context, and count those that are dropped.

    Args:
        stage_dir: the stage's folder, whose data.json takes the counts; None: they are only logged.
        context: of a model whose config names no number of positions; None: it has no limit.

    Raises:
        UserError: no prompt of a split leaves room, or the chat template refuses a prompt.
    """
    context = context_length(config) or context
    with refusals_named("prompts", splits, tokenizer):
        tokens = {
            name: [len(ids) for ids in encode_prompts(rows.to_list(), tokenizer)] for name, rows in splits.items()
        }
    if context is None:
        return splits
    room, kept, counts = context - max_completion_length, {}, {}
    for name, rows in splits.items():
        fitting = [index for index, length in enumerate(tokens[name]) if length <= room]
        if not fitting:
            sizes = [characters for _, characters in row_lengths(rows, "prompts")]
            lengths = [RowLength(*size) for size in zip(sizes, tokens[name], strict=True)]
            raise UserError(
                f"no prompt of the {name} split leaves room for a completion",
                got=f"prompts of {min(tokens[name])} tokens or more, max_completion_length={max_completion_length}",
                expected=f"at most {context} tokens together, the model's context",
                fix=completion_fix(lengths, max_completion_length, context),
            )
        dropped = len(rows) - len(fitting)
        if dropped:
            reason = f"longer than {room} tokens"
            logger.warning("%s: %d of %d prompts dropped: %s", name, dropped, len(rows), reason)
            counts[name] = {"rows": len(rows), "trained": len(fitting), "dropped": {reason: dropped}}
        kept[name] = rows.select(fitting)
    if stage_dir is not None:
        record_tokens(stage_dir, counts)
    return DatasetDict(kept)
