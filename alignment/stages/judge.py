"""The judge stage: preferences of AI judges on pairs of replies, or their ratings of single replies, as rows.

RLAIF (Lee et al. 2023, arXiv 2309.00267) and the preferences of constitutional AI (Bai et al. 2022, arXiv 2212.08073,
section 4.1): judges are asked by a principle, with either reply first.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

from alignment.errors import UserError, gathered, raise_all
from alignment.keyed_seeds import keyed_seed
from alignment.models.checkpoints import is_path
from alignment.name_options import is_function
from alignment.stages import CAUSAL_LM, CLASSIFIER, STAGES
from alignment.stages.made_rows.card_of_judge import card_of, require_gold, require_within_limits
from alignment.stages.made_rows.data_run import DataRun, DataStageKeys
from alignment.stages.made_rows.judged_rows import Labels, Opinion, judged_row, of_pair, of_ratings
from alignment.stages.made_rows.made_parts import Part
from alignment.stages.made_rows.own_columns import PAIR, beyond_pair, of_pair_alone
from alignment.stages.made_rows.read_rows import RowArguments
from alignment.stages.made_rows.rows_to_come import PAIR_TO_COME, Asking, RowsToCome
from alignment.stages.made_rows.stored_answers import answers_of_run, look_at_answers
from alignment.stages.made_rows.versus import compared_models, equal_pairs
from alignment.stages.shared.inputs import load_data
from alignment.stages.shared.result import StageResult
from alignment.tokenization.chat_format import Messages
from reward_models.calls import distinct
from reward_models.card.gold_scores import GOLD_COLUMNS
from reward_models.card.judge_card_text import CARD_TEXT, write_judge_card
from reward_models.functions import check_function
from reward_models.functions import needed_columns as columns_of_reward
from reward_models.judges.answer_store import AnswerStore
from reward_models.judges.asked import AskedJudge, PairQuestion, RatingQuestion, Templates
from reward_models.judges.asking import Account
from reward_models.judges.local import check_local, local, require_reading
from reward_models.judges.named_judges import asked_judge, check_judge, is_endpoint, load_panel
from reward_models.judges.panel import judge_pairs, judge_ratings, require_ready
from reward_models.judges.principle_prompts import pair_template, rating_template
from reward_models.judges.principles import JUDGE, RATER, Principle, read_principles
from reward_models.judges.questions import PAIR_PROMPT, RATING_PROMPT

PARENTS = {"judge_model_path": CAUSAL_LM, "judges": CLASSIFIER}


@dataclass
class JudgeRecipe(DataStageKeys):
    """Who judges, by what, and which opinions become rows."""

    judge_model_path: str | None = field(
        default=None, metadata={"help": "A language model as judge: the probabilities of its answers are read."}
    )
    judges: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further judges: reward_models.api_judge:api?base_url=URL&model=NAME, a reward model (a stage, "
            "folder or hub id), or file.py:Class with a method compare. Of several judges the mean counts."
        },
    )
    ask: Literal["pairs", "ratings"] = field(
        default="pairs",
        metadata={
            "help": "pairs: which reply is better, with either first. ratings: how good each reply is by itself."
        },
    )
    principles: str | None = field(
        default=None,
        metadata={
            "help": "A YAML file of principles, a list of {name, prefer} or, for ratings, {name, rate}; default: the "
            "judge's own question."
        },
    )
    principles_per_row: Literal["all", "one"] = field(
        default="all",
        metadata={"help": "Judge each row by all principles, whose mean counts, or by one that is drawn for it."},
    )
    template: str | None = field(
        default=None,
        metadata={
            "help": "The question to a language model, as text or a file: with {principle}, {prompt}, {a} and {b}; for "
            "ratings with {completion} instead of {a} and {b}."
        },
    )
    labels: Literal["likelier", "drawn"] = field(
        default="likelier",
        metadata={
            "help": "The chosen reply: the likelier one, or drawn with the judges' probability, so that the expected "
            "loss of DPO and of a reward model is that of soft labels."
        },
    )
    min_confidence: float = field(
        default=0.5,
        metadata={"help": "Leave out pairs whose likelier reply has a smaller probability; ties have 0.5."},
    )
    require_agreement: bool = field(
        default=False,
        metadata={"help": "Leave out pairs on which a judge changes its mind with the order, or judges disagree."},
    )
    max_requests: int | None = field(
        default=None, metadata={"help": "Requests to endpoints at most; rows beyond have no opinion and are counted."}
    )
    gold_func: str | None = field(
        default=None,
        metadata={
            "help": "For the judge's card: a function that scores replies as the truth does, given the columns and "
            "`principle`; default: the columns gold_chosen and gold_rejected, if the rows have them."
        },
    )
    max_position_bias: float | None = field(
        default=None,
        metadata={"help": "Stop if the judge prefers the first reply by more than this share over a half."},
    )
    max_length_bias: float | None = field(
        default=None, metadata={"help": "Stop if length moves the judge's preference by more than this share."}
    )
    min_agreement: float | None = field(
        default=None,
        metadata={"help": "Stop unless the judge agrees with gold on this share of pairs at least, by each principle."},
    )
    batch_size: int = field(default=8, metadata={"help": "Questions that a local model answers at a time."})
    min_mass: float = field(
        default=0.01,
        metadata={"help": "judge_model_path has no opinion if its answers are less probable than this in total."},
    )

    def __post_init__(self) -> None:
        errors: list[UserError] = []
        with gathered(errors):
            super().__post_init__()
        if not (self.judge_model_path or self.judges):
            errors.append(UserError("the recipe has no judge", expected="judge_model_path, judges or both"))
        errors += self._out_of_range()
        with gathered(errors):
            require_reading(self.batch_size, self.min_mass)
        if self.ask == "ratings" and self.max_position_bias is not None:
            problem = "max_position_bias has no meaning with ask: ratings"
            errors.append(UserError(problem, got=self.max_position_bias, fix="remove it: no reply is shown first"))
        if self.gold_func is not None:
            with gathered(errors):
                check_function(self.gold_func)
        for name in filter(is_function, self.judges):
            with gathered(errors):
                check_judge(name, pairs=self.ask == "pairs", ask=False)
        for read in (self.read_principles, self.templates):
            with gathered(errors):
                read()
        raise_all(errors)

    def _out_of_range(self) -> list[UserError]:
        """An error for each limit that nothing could be within, or beyond."""
        rules = {
            "min_confidence": (0.5, 1.0, "0.5 to 1"),
            "max_requests": (0, math.inf, "0 or more"),
            "max_position_bias": (0.0, 0.5, "0 to 0.5"),
            "max_length_bias": (0.0, 1.0, "0 to 1"),
            "min_agreement": (0.0, 1.0, "0 to 1"),
        }
        return [
            UserError(f"{key} is out of range", got=value, expected=expected)
            for key, (least, most, expected) in rules.items()
            if (value := getattr(self, key)) is not None and not least <= value <= most
        ]

    def read_principles(self) -> list[Principle]:
        """The principles; one without a name or text if the recipe has no file."""
        needs = RATER if self.ask == "ratings" else JUDGE
        return read_principles(self.principles, needs) if self.principles else [Principle("")]

    def templates(self) -> Templates:
        """The questions of the recipe."""
        if self.template is None:
            return Templates()
        if self.ask == "ratings":
            return Templates(rating=rating_template(self.template, "template", self.principles is not None))
        return Templates(pair=pair_template(self.template, "template", self.principles is not None))


CONFIGS = (JudgeRecipe, RowArguments)


def rows_to_come(args: JudgeRecipe, data: RowArguments) -> RowsToCome:
    """What is known of the rows before they are written."""
    return RowsToCome({**PAIR_TO_COME, "preference": 0.9, "judged": []}, of_pair_alone)


def asking(args: JudgeRecipe, data: RowArguments) -> Asking:
    """What the judges will be asked."""
    principles, pairs, templates = args.read_principles(), args.ask == "pairs", args.templates()
    count = len(principles) if args.principles_per_row == "all" else 1

    def questions(row: Mapping[str, Any]) -> list[Messages]:
        one = principles[0]
        asked: Any = (
            PairQuestion(row["prompt"], row["chosen"], row["rejected"], one.prefer)
            if pairs
            else RatingQuestion(row["prompt"], row["chosen"], one.rate)
        )
        text = templates.text(asked, PAIR_PROMPT, RATING_PROMPT, (1, 5), written=False)
        return [[{"role": "user", "content": text}]]

    how = f"2 {'positions' if pairs else 'replies'} x {count} principle{'s' if count > 1 else ''}"
    endpoints = sum(is_endpoint(name) for name in args.judges)
    return Asking(2 * count, how, "judge_model_path", 1, endpoints, questions, 2 if pairs else 1, args.max_requests)


def needed_columns(args: JudgeRecipe, data: RowArguments) -> list[tuple[str, str]]:
    """(column, recipe key) of the columns that the rows must have."""
    if args.gold_func is not None:
        return [(name, "gold_func") for name in columns_of_reward(args.gold_func)]
    return [(name, "min_agreement without gold_func") for name in GOLD_COLUMNS if args.min_agreement is not None]


def require_outside(args: JudgeRecipe, data: RowArguments) -> None:
    """Raise before any stage of a run if a judge is not there: a silent endpoint, a model that cannot judge."""
    pairs, errors = args.ask == "pairs", list[UserError]()
    for name in args.judges:
        with gathered(errors):
            if is_function(name) or Path(name).is_dir() or not is_path(name):  # otherwise a stage has yet to write it
                check_judge(name, pairs)
    if args.judge_model_path and Path(args.judge_model_path).is_dir():
        with gathered(errors):
            check_local(args.judge_model_path, pairs)
    raise_all(errors)


def check(args: JudgeRecipe, data: RowArguments) -> None:
    if args.judge_model_path:
        check_local(args.judge_model_path, args.ask == "pairs")
    for name in args.judges:
        if not is_function(name):
            check_judge(name)


def run(args: JudgeRecipe, data: RowArguments) -> StageResult:
    stage = DataRun("judge", args)
    principles = args.read_principles()
    rows = load_data(data, STAGES["judge"].data, args.seed, stage.folder, keep=None)["train"].to_list()
    require_gold(rows, [one.name for one in principles], args.gold_func, args.min_agreement)
    ask = rated if args.ask == "ratings" else compared
    labels = Labels(args.labels, args.min_confidence, args.require_agreement, args.seed)
    with answers_of_run(stage.folder) as store:
        panel = load_judges(args, store.name)
        require_ready(panel, RatingQuestion if args.ask == "ratings" else PairQuestion)

        @cache
        def requests_of(number: int) -> int:
            """The requests of a finished part, of which none is in two parts."""
            return stage.parts.read(number).counts["requests"]

        def make(start: int, some: Sequence[dict[str, Any]]) -> Part:
            number, budget = start // stage.size, None
            store.begin_part(number)
            if args.max_requests is not None:
                budget = args.max_requests - sum(map(requests_of, range(number)))
            by = [chosen_principles(args, principles, row) for row in some]
            judged = [(row, one) for row, ones in zip(some, by, strict=True) for one in ones]
            opinions, account = ask(panel, judged, store, budget)
            left = iter(opinions)
            made = [
                judged_row(row, {one.name: next(left) for one in ones}, labels)
                for row, ones in zip(some, by, strict=True)
            ]
            left_out = [row | {"left_out": why} for row, why in made if why]
            counts = counts_of(account) | Counter(f"pairs left out: {one['left_out']}" for one in left_out)
            return Part([row for row, why in made if not why], left_out, counts)

        stage.make(rows, make, "pairs")
    card = card_of(stage.made(), args.gold_func, compared_models(rows), equal_pairs(stage.folder))
    write_judge_card(stage.folder, card, stage.folder.name)
    require_within_limits(card, args.max_position_bias, args.max_length_bias, args.min_agreement)
    metrics = {"judges": [judge.name for judge in panel], "judge_card": card}
    models = {"judge_model_path": args.judge_model_path}
    models |= {f"judges.{number}": name for number, name in enumerate(args.judges) if not is_function(name)}
    look = [f"{stage.folder / CARD_TEXT} has the judge's card"]
    if any("run" not in judge.identity for judge in panel):  # answers of code serve no other run
        look += look_at_answers(store)
    return stage.finish(models, data, "preference", metrics, look)


Judged = Sequence[tuple[dict[str, Any], Principle]]  # rows, each with a principle to judge it by


def compared(
    panel: Sequence[AskedJudge], judged: Judged, store: AnswerStore, budget: int | None
) -> tuple[list[Opinion], Account]:
    """Opinions of judges that see both replies."""
    pairs = [
        PairQuestion(row["prompt"], row["chosen"], row["rejected"], one.prefer, beyond_pair(row)) for row, one in judged
    ]
    opinions, account = judge_pairs(panel, pairs, store, budget)
    return [of_pair(one) for one in opinions], account


def rated(
    panel: Sequence[AskedJudge], judged: Judged, store: AnswerStore, budget: int | None
) -> tuple[list[Opinion], Account]:
    """Opinions of judges that rate each reply by itself."""
    replies = [
        RatingQuestion(row["prompt"], row[side], one.rate, beyond_pair(row))
        for row, one in judged
        for side in ("chosen", "rejected")
    ]
    opinions, account = judge_ratings(panel, replies, store, budget)
    return [of_ratings(a, b) for a, b in zip(opinions[::2], opinions[1::2], strict=True)], account


def load_judges(args: JudgeRecipe, run: str) -> list[AskedJudge]:
    """The judges of a recipe, each named differently."""
    panel = load_panel(args.judges, args.batch_size, args.templates(), run)
    if args.judge_model_path:
        judge = local(args.judge_model_path, batch_size=args.batch_size, min_mass=args.min_mass)
        panel.insert(0, asked_judge(judge, args.judge_model_path, judge.__name__, args.templates()))
        for one, name in zip(panel, distinct([judge.name for judge in panel]), strict=True):
            one.name = name
    return panel


def chosen_principles(args: JudgeRecipe, principles: Sequence[Principle], row: dict[str, Any]) -> list[Principle]:
    """The principles that a row is judged by: all, or one that its content draws, wherever it is among the rows."""
    if args.principles_per_row == "all":
        return list(principles)
    key = [row[name] for name in PAIR]
    return [Random(keyed_seed(args.seed, key)).choice(principles)]


def counts_of(account: Account) -> dict[str, int]:
    """An account as counts: of all rows, then of each judge."""
    counts = {"requests": account.requests, "opinions": account.opinions, "ties": account.ties}
    for name, one in account.judges.items():
        figures = {key: value for key, value in vars(one).items() if isinstance(value, int)}
        counts |= {f"{name}: {key.replace('_', ' ')}": value for key, value in figures.items()}
    return counts
