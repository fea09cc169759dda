"""The material of the checks of one stage: its rows, tokenizer, models and settings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from alignment.data.arguments import DataArguments
from alignment.data.preparing.account import DataReport
from alignment.data.preparing.load import prepare
from alignment.data.preparing.parts import read_part
from alignment.data.reading.formats import KINDS
from alignment.data.reading.python_sources import is_python_sources
from alignment.data.reading.sources import is_local, is_tinyworld, parse_tinyworld
from alignment.data.tokenizing.encoding import Encoded, Pair
from alignment.data.tokenizing.length_advice import RowLength
from alignment.models.context_length import context_length
from alignment.stages import STAGES, Stage
from alignment.stages.shared.inputs import eval_texts
from alignment.stages.shared.recipe_keys import recipe_key

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Options:
    """How much to check, and the share of rows that may be lost before it is an error.

    Attributes:
        sample: number of training rows to tokenize, evenly spread.
        truncated, dropped: the largest shares of truncated and of dropped rows.
        leaked_text: the largest share of held-out documents that are also training documents.
        offline: whether to note sources outside the local cache as not checked, instead of fetching them.
        whole: whether to generate all rows of generated sources; otherwise only as many as are sampled.
        quick: whether this is a smoke run, whose number of steps is not the recipe's.
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
    """A stage's canonical rows by split, and the account of the source's rows.

    Attributes:
        splits: train, and if present validation and card (a reward model's test split).
        report: the account of every row.
        whole: number of rows of the whole training split, if only its first rows were made.
    """

    splits: dict[str, Dataset]
    report: DataReport
    whole: int | None = None

    def count(self, split: str) -> int:
        """Return the number of rows of the whole split."""
        return self.whole if split == "train" and self.whole else len(self.splits[split])


@dataclass(frozen=True)
class PlannedModel:
    """The config of an existing or a future model, and of the adapter on it, if any."""

    config: PreTrainedConfig
    adapter: PeftConfig | None = None


@dataclass(frozen=True)
class Origin:
    """The tokenizer and models that a stage starts from, as far as they are known before any training.

    Attributes:
        tokenizer: with the template, eos and pad tokens that the recipes of its parents set; None if unknown.
        stand_in: whether the tokenizer is a temporary substitute, trained on a sample of the stage's own text.
        new_tokens: tokens that the sft stage will add to a base model's tokenizer.
        model: the model to train; None if unknown.
        reward_model, reward_tokenizer: for PPO and GRPO, if the recipe names a reward model.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    stand_in: bool = False
    new_tokens: tuple[str, ...] = ()
    model: PlannedModel | None = None
    reward_model: PlannedModel | None = None
    reward_tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def config(self) -> PreTrainedConfig | None:
        """The config of the model to train."""
        return self.model.config if self.model else None

    @property
    def context(self) -> int | None:
        """The context length of the model to train, in tokens."""
        return context_length(self.config) if self.config else None


@dataclass(frozen=True)
class Material:
    """Everything that the checks of a stage may read.

    Attributes:
        formats: whether the tokenizer's chat template formats conversations.
        marks: whether the template of training marks the replies, as assistant_only_loss needs.
        encoded, pairs: the tokenized sample; a conversation may have several encoded rows.
        lengths: of the rows of the sample, and of the longest rows outside.
    """

    stage: str
    method: str
    kind: str
    configs: tuple[Any, ...]
    rows: Rows
    origin: Origin
    options: Options
    training_template: str | None = None
    formats: bool = False
    marks: bool = False
    encoded: list[Encoded] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    lengths: list[RowLength] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting from the stage's dataclasses, or the default if the stage has no such key."""
        return recipe_key(self.configs, name, default)

    @property
    def facts(self) -> Stage:
        """The stage's row in the table of stages."""
        return STAGES[self.method]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; checks that need it run only if it is known."""
        if self.origin.tokenizer is None:
            raise ValueError(f"the tokenizer of the stage {self.stage} is not known before training")
        return self.origin.tokenizer

    @property
    def train(self) -> Dataset:
        """The training rows."""
        return self.rows.splits["train"]

    @property
    def longest(self) -> int:
        """Tokens of the longest row found; for pairs, of the longer side."""
        return max((row.tokens for row in self.lengths), default=0)

    @property
    def sampled(self) -> int:
        """The number of tokenized rows of the data, however many rows train them."""
        return len({row.row for row in self.encoded} | {pair.row for pair in self.pairs})

    @property
    def trained(self) -> int:
        """The number of rows that are trained, estimated from the sample: a conversation may become several."""
        rows = self.rows.count("train")
        return round(rows * len(self.encoded) / self.sampled) if self.encoded else rows

    def token_counts(self) -> list[int]:
        """Return the number of tokens of each sampled row; for pairs, of both sides."""
        sides = [ids for pair in self.pairs for ids in (pair.chosen, pair.rejected)]
        return [len(row.ids) for row in self.encoded] + [len(ids) for ids in sides]

    @property
    def sampled_indices(self) -> list[int]:
        """Indices of the training rows to tokenize: evenly spread, so that all sources of a mixture are included."""
        rows = len(self.train)
        sampled = min(self.options.sample, rows)
        return [number * rows // sampled for number in range(sampled)]

    @property
    def sample(self) -> list[dict[str, Any]]:
        """The training rows to tokenize, with only the columns of their kind."""
        return self.train.select_columns(list(KINDS[self.kind])).select(self.sampled_indices).to_list()

    @property
    def estimated(self) -> str:
        """A remark for counts of tokens that a stand-in made; otherwise empty."""
        return " (estimated: the tokenizer is not trained yet)" if self.origin.stand_in else ""


def from_the_hub(data: DataArguments) -> list[str]:
    """Return the names of the sources that would be fetched from the hub."""
    local = (is_tinyworld, is_local, is_python_sources)
    return [source.name for source in data.sources() if not any(is_kind(source.name) for is_kind in local)]


def read_rows(data: DataArguments, kind: str, seed: int, card_split: str | None, options: Options) -> Rows:
    """Return a stage's rows as the stage itself would read them, with the account of every row.

    Streamed sources, and before a run generated ones too, are read only as far as the sample needs.

    Args:
        card_split: a further split, on which a reward model is evaluated.
    """
    data, whole = _smaller(data, kind, options)
    # A generated source keeps its splits disjoint.
    held_out = {"card": card_split} if card_split and not whole else {}
    with _quiet("alignment.data"):  # the account holds what it logs
        prepared = prepare(data, kind, seed, keep=None, avoid=eval_texts(data), held_out=held_out)
    return Rows(dict(prepared.splits), prepared.report, whole)


def first_texts(data: DataArguments, count: int) -> list[str]:
    """Return the first documents of each source of a tokenizer's training data."""
    smaller, _ = _smaller(data, "text", Options(sample=count, whole=False))
    texts: list[str] = []
    with _quiet("alignment.data"):
        for source in smaller.sources():
            part = read_part(replace(source, max_rows=count), source.split, "train", "text", ())
            texts += part.rows["text"][:]
    return texts


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Limit a logger to warnings within the context."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _smaller(data: DataArguments, kind: str, options: Options) -> tuple[DataArguments, int | None]:
    """Reduce the data to at most `options.sample` training rows if the source can be read in part.

    Returns:
        The arguments, and the number of rows of the whole training split (None: not reduced).
    """
    limit = data.max_train_samples
    if data.streaming and (limit is None or limit > options.sample):
        return replace(data, max_train_samples=options.sample), limit
    if options.whole or data.dataset_name is None or not is_tinyworld(data.dataset_name):
        return data, None
    from alignment.data.tinyworld import DATASETS

    rows, config = parse_tinyworld(data.dataset_name, kind)
    size = DATASETS[rows][1]
    whole = getattr(config, size)
    if whole <= options.sample or rows in ("eval", "fewshot"):
        return data, None
    name = f"{data.dataset_name}{'&' if '?' in data.dataset_name else '?'}{size}={options.sample}"
    return replace(data, dataset_name=name), min(whole, limit or whole)
