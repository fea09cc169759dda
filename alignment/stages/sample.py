"""The sample stage: replies of a checkpoint as rows, all of them, the best of n by a reward, or preference pairs.

Rejection sampling is `write: best` before an sft stage; on-policy rounds are `write: pairs` before a dpo stage, as many
as a pipeline lists. `write: versus` pairs the replies of two checkpoints, for a judge stage that compares them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from alignment.errors import UserError, gathered, raise_all
from alignment.stages import CAUSAL_LM, CLASSIFIER, STAGES
from alignment.stages.made_rows.data_run import DataRun, DataStageKeys
from alignment.stages.made_rows.made_parts import Part
from alignment.stages.made_rows.own_columns import without_replies
from alignment.stages.made_rows.read_rows import RowArguments
from alignment.stages.made_rows.rewards_of_samples import SampleRewards, weighted_sum
from alignment.stages.made_rows.rows_to_come import PAIR_TO_COME, PROMPT, SAID, RowsToCome
from alignment.stages.made_rows.sampling_keys import SamplingKeys
from alignment.stages.made_rows.versus import pairs_left_out
from alignment.stages.shared.inputs import load_data
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.rollouts import without_long_prompts
from alignment.stages.shared.saving import stage_of
from alignment.tokenization.chat_format import require_template
from eval.generation.generate import encode_prompts, first_numbers, generate
from eval.generation.sampled_rows import Samples, best_rows, completion_rows, pair_rows, scored, two_rows, versus_rows

if TYPE_CHECKING:
    from eval.harness.lm import Reply

PARENTS = {"model_name_or_path": CAUSAL_LM, "versus_model_path": CAUSAL_LM, "reward_model_path": CLASSIFIER}
KIND_OF = {  # what the written rows are
    "completions": "sft",
    "two": "preference",
    "best": "sft",
    "pairs": "preference",
    "versus": "preference",
}


@dataclass
class SampleRecipe(SampleRewards, SamplingKeys):
    """How replies are drawn, and which of them become rows."""

    model_name_or_path: str = field(default="", metadata={"help": "The checkpoint that answers, with a chat template."})
    write: Literal["completions", "two", "best", "pairs", "versus"] = field(
        default="completions",
        metadata={
            "help": "completions: every reply (for sft; with scores). two: two different replies to each prompt, as "
            "reply_a and reply_b (for a judge). best: the best reply to each prompt by the reward (for sft). pairs: "
            "the best reply against another (for dpo and reward). versus: replies of this checkpoint as reply_a, "
            "those of versus_model_path as reply_b (for a judge that compares the two)."
        },
    )
    versus_model_path: str | None = field(
        default=None, metadata={"help": "With write: versus, the checkpoint that answers the same prompts."}
    )
    num_generations: int = field(default=4, metadata={"help": "Replies per prompt."})
    against: Literal["worst", "random"] = field(
        default="worst", metadata={"help": "The rejected reply of a pair: the worst, or any of the others."}
    )
    min_margin: float = field(
        default=0.0, metadata={"help": "Pairs with a smaller difference of scores are ties, and are left out."}
    )
    keep_truncated: bool = field(
        default=False, metadata={"help": "Let best and pairs choose replies that the length limit cut off."}
    )

    def __post_init__(self) -> None:
        errors: list[UserError] = []
        for require in (
            partial(DataStageKeys.__post_init__, self),
            partial(SampleRewards.__post_init__, self),
            self.sampling,
        ):
            with gathered(errors):
                require()
        if not self.model_name_or_path:
            expected = "a stage name, a checkpoint folder or a hub id"
            errors.append(UserError("the recipe has no model_name_or_path", expected=expected))
        chosen, several = self.write in ("best", "pairs"), self.write in ("two", "best", "pairs")
        if self.num_generations < (2 if several else 1):
            expected = f"{2 if several else 1} or more with write: {self.write}"
            errors.append(UserError("too few replies to each prompt", got=self.num_generations, expected=expected))
        if chosen and not self.named():
            expected = "reward_model_path, reward_funcs or both"
            errors.append(UserError(f"write: {self.write} needs a reward", expected=expected))
        if several and self.temperature == 0:
            errors.append(UserError(f"write: {self.write} needs different replies", got="temperature 0"))
        errors += self._wrong_versus()
        raise_all(errors)

    def _wrong_versus(self) -> list[UserError]:
        """An error for each key that does not fit `write: versus`, or fits nothing else."""
        other, errors = self.versus_model_path, list[UserError]()
        if self.write != "versus":
            if other is not None:
                fix = "write: versus, or remove versus_model_path"
                errors.append(UserError(f"write: {self.write} reads no second checkpoint", got=other, fix=fix))
            return errors
        if other is None:
            expected = "versus_model_path: a stage name, a checkpoint folder or a hub id"
            errors.append(UserError("write: versus needs a second checkpoint", expected=expected))
        elif other == self.model_name_or_path:
            errors.append(UserError("write: versus compares a checkpoint with itself", got=other))
        if self.named():
            got = ", ".join(self.named())
            errors.append(UserError("write: versus reads no reward", got=got, fix="name it in the judge stage"))
        if self.temperature == 0 and self.num_generations > 1:
            problem, got = "equal replies to each prompt", f"temperature 0, num_generations {self.num_generations}"
            errors.append(UserError(problem, got=got, fix="num_generations: 1, or a temperature above 0"))
        return errors

    def checkpoints(self) -> list[str]:
        """The checkpoints that answer, the one whose replies come first in a row first."""
        return [self.model_name_or_path, *([self.versus_model_path] if self.versus_model_path else [])]


CONFIGS = (SampleRecipe, RowArguments)


def rows_to_come(args: SampleRecipe, data: RowArguments) -> RowsToCome:
    """What is known of the rows before they are written."""
    if args.write == "completions":
        example = {"prompt": PROMPT, "completion": SAID[0], "sample": 0}
        return RowsToCome(example, without_replies, args.num_generations)
    if args.write == "two":
        return RowsToCome({"prompt": PROMPT, "reply_a": SAID[0], "reply_b": SAID[1]}, without_replies)
    if args.write == "versus":
        example = {"prompt": PROMPT, "reply_a": SAID[0], "reply_b": SAID[1], "model_a": "a", "model_b": "b"}
        return RowsToCome(example, without_replies)
    return RowsToCome(PAIR_TO_COME if KIND_OF[args.write] == "preference" else {"messages": [*PROMPT, *SAID[0]]})


def check(args: SampleRecipe, data: RowArguments) -> None:
    for checkpoint in args.checkpoints():
        require_template(checkpoint)


def run(args: SampleRecipe, data: RowArguments) -> StageResult:
    from eval.harness.lm import context_limit
    from eval.harness.run_suite import load_checkpoint

    stage = DataRun("sample", args)
    splits = load_data(data, STAGES["sample"].data, args.seed, stage.folder, keep=None)
    splits.pop("validation", None)
    writers = [load_checkpoint(checkpoint) for checkpoint in args.checkpoints()]
    for model, tokenizer in writers:
        limit = context_limit(model, tokenizer)
        splits = without_long_prompts(splits, model.config, tokenizer, args.max_completion_length, stage.folder, limit)
    reward = weighted_sum(args, splits, args.batch_size)
    rows = splits["train"].to_list()
    asked = [encode_prompts(tokenizer, [row["prompt"] for row in rows], "chat") for _, tokenizer in writers]
    starts = [first_numbers(prompts, args.num_generations) for prompts in asked]

    def make(start: int, some: Sequence[dict[str, Any]]) -> Part:
        here = slice(start, start + len(some))
        drawn = [
            generate(*writer, prompts[here], args.sampling(), args.num_generations, first[here])
            for writer, prompts, first in zip(writers, asked, starts, strict=True)
        ]
        if args.write == "versus":
            return versus_part(Samples(list(some), drawn[0]), drawn[1], args)
        return part_of(scored(Samples(list(some), drawn[0]), reward), args, start)

    stage.make(rows, make, "prompts")
    return stage.finish({key: getattr(args, key) for key in PARENTS}, data, KIND_OF[args.write])


def part_of(samples: Samples, args: SampleRecipe, start: int) -> Part:
    """The rows of some prompts' replies, with the number of replies and of prompts without a row by reason."""
    # The columns were read by the rewards; those about the source's own replies are not the row's.
    rows = [without_replies(row) for row in samples.rows]
    samples = replace(samples, rows=rows, keep_truncated=args.keep_truncated)
    without: Counter[str] = Counter()
    if args.write == "pairs":
        rows, without = pair_rows(samples, args.against, args.min_margin, args.seed, start)
    elif args.write == "best":
        rows, without = best_rows(samples)
    elif args.write == "two":
        rows, without = two_rows(samples)
    else:
        rows = completion_rows(samples)
    counts = {f"prompts without a row: {reason}": count for reason, count in without.items()}
    return drawn_part(rows, samples.replies, counts)


def versus_part(samples: Samples, others: list[list["Reply"]], args: SampleRecipe) -> Part:
    """The pairs of two checkpoints' replies to some prompts; truncated replies too, without which a mean is biased."""
    names = [stage_of(checkpoint) for checkpoint in args.checkpoints()]
    if len(set(names)) < len(names):
        names = args.checkpoints()
    samples = replace(samples, rows=[without_replies(row) for row in samples.rows])
    rows, left_out = versus_rows(samples, others, *names)
    counts = Counter(pairs_left_out(row["left_out"]) for row in left_out)
    return drawn_part(rows, [*samples.replies, *others], counts, left_out)


def drawn_part(
    rows: list[dict[str, Any]],
    groups: Sequence[Sequence["Reply"]],
    counts: dict[str, int],
    left_out: Sequence[dict[str, Any]] = (),
) -> Part:
    """A part of a stage's rows, with the number of replies that were drawn for it."""
    replies = [reply for group in groups for reply in group]
    counts = {"replies": len(replies), "replies truncated": sum(reply.truncated for reply in replies)} | counts
    return Part(rows, list(left_out), counts, tokens=sum(reply.gen_len for reply in replies))
