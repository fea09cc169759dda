"""What the checks of one stage look at: its rows, its tokenizer, its settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from alignment.check.encoding import Encoded, Pair
from alignment.data.arguments import DataArguments
from alignment.data.formats import KINDS, Report, convert
from alignment.data.load import split_off
from alignment.data.sources import is_local, is_tinyworld, load_source, own_test_split, parse_tinyworld

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Options:
    """How much is looked at, and what share of the rows may be lost before that is an error.

    Attributes:
        sample: rows to look at in tokens.
        truncated, dropped, leaked_text: shares of rows; leaked_text of held-out documents among the training ones.
        offline: what is not in the local cache is noted as not checked.
        whole: make all rows of generated sources; else only as many as are looked at.
        quick: a smoke run, whose steps are not what the recipe means.
    """

    sample: int = 1000
    truncated: float = 0.05
    dropped: float = 0.05
    leaked_text: float = 0.05
    offline: bool = False
    whole: bool = True
    quick: bool = False


@dataclass(frozen=True)
class Rows:
    """A stage's canonical rows by split, and what became of the source's.

    Attributes:
        splits: train, validation where there is one, and card (a reward model's test split).
        reports: what was kept and dropped, by split.
        columns: of the source's training split, as they were.
        whole: rows that the training split has where only its first ones were made.
    """

    splits: dict[str, Dataset]
    reports: dict[str, Report]
    columns: list[str]
    whole: int | None = None

    def count(self, split: str) -> int:
        return self.whole if split == "train" and self.whole else len(self.splits[split])


@dataclass(frozen=True)
class PlannedModel:
    """The config of a model that is there, or will be; and the adapter on it, where it has one."""

    config: PreTrainedConfig
    adapter: PeftConfig | None = None


@dataclass(frozen=True)
class Origin:
    """The tokenizer and models that a stage starts from, as far as they are known before any training.

    Attributes:
        tokenizer: with the template, eos and pad token that the recipes on the way set; None where it is not here.
        stand_in: whether it is a throw-away one, trained on a sample of the stage's own text.
        model: that is trained; None where it is not here.
        reward_model: of PPO, where the recipe names one.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    stand_in: bool = False
    model: PlannedModel | None = None
    reward_model: PlannedModel | None = None

    @property
    def config(self) -> PreTrainedConfig | None:
        return self.model.config if self.model else None

    @property
    def context(self) -> int | None:
        """Positions of the model."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None) if self.config else None


@dataclass(frozen=True)
class Material:
    """All that the checks of a stage may look at."""

    stage: str
    method: str
    kind: str
    configs: tuple[Any, ...]
    rows: Rows
    origin: Origin
    options: Options
    training_template: str | None = None
    encoded: list[Encoded] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """A setting, from whichever of the stage's dataclasses has it."""
        return next((getattr(config, name) for config in self.configs if hasattr(config, name)), default)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        return self.origin.tokenizer

    @property
    def train(self) -> Dataset:
        return self.rows.splits["train"]

    def token_counts(self) -> list[int]:
        """Tokens of each row looked at; of pairs of both sides."""
        sides = [ids for pair in self.pairs for ids in (pair.chosen, pair.rejected)]
        return [len(row.ids) for row in self.encoded] + [len(ids) for ids in sides]

    @property
    def sample(self) -> list[dict[str, Any]]:
        """The first training rows."""
        return self.read("train").select(range(min(self.options.sample, len(self.train)))).to_list()

    def read(self, split: str) -> Dataset:
        """A split's rows without the columns that only come along, whatever they are called."""
        return self.rows.splits[split].select_columns(list(KINDS[self.kind]))

    @property
    def estimated(self) -> str:
        """What to add to a count of tokens."""
        return " (estimated with a stand-in tokenizer)" if self.origin.stand_in else ""


def is_hub(name: str) -> bool:
    """Whether a data set would come from the hub."""
    return not is_tinyworld(name) and not is_local(name) and not name.startswith("python-sources")


def read_rows(
    data: DataArguments, kind: str, seed: int, card_split: str | None = None, most: int | None = None
) -> Rows:
    """A stage's rows, split and limited as `load_splits` does it, with the reports of what was dropped.

    Args:
        card_split: a further split, which a reward model is judged on.
        most: of a generated source make only so many training rows, and no others where it has more.
    """
    name, whole = _smaller(data.dataset_name, kind, most)
    data = replace(data, dataset_name=name)
    reports: dict[str, Report] = {}
    splits: dict[str, Dataset] = {}
    columns: list[str] = []

    def read(split: str, into: str) -> None:
        source = load_source(name, config=data.dataset_config, split=split, kind=kind)
        columns.extend(() if columns else source.column_names)
        splits[into], reports[into] = convert(source, kind, columns=data.columns, keep=None)

    read(data.dataset_train_split, "train")
    test_split = data.dataset_test_split or own_test_split(name)
    if whole:
        card_split = None  # a generated source keeps its splits apart by itself
    elif test_split:
        read(test_split, "validation")
    elif data.eval_share:
        splits["train"], splits["validation"] = split_off(splits["train"], kind, data.eval_share, seed)
    if card_split:
        read(card_split, "card")
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples}
    splits = {split: _first(rows, limits.get(split)) for split, rows in splits.items()}
    if whole and data.max_train_samples:
        whole = min(whole, data.max_train_samples)
    return Rows(splits, reports, columns, whole)


def _smaller(name: str, kind: str, most: int | None) -> tuple[str, int | None]:
    """A tinyworld source that makes at most `most` training rows, and how many the whole has; others unchanged."""
    if most is None or not is_tinyworld(name):
        return name, None
    from alignment.data.tinyworld import DATASETS

    rows, config = parse_tinyworld(name, kind)
    size = DATASETS[rows][1]
    whole = getattr(config, size)
    if whole <= most or rows in ("eval", "fewshot"):
        return name, None
    return f"{name}{'&' if '?' in name else '?'}{size}={most}", whole


def _first(rows: Dataset, limit: int | None) -> Dataset:
    return rows if limit is None else rows.select(range(min(limit, len(rows))))
