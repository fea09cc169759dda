"""What the checks of one stage look at: its rows, its tokenizer, its settings."""

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
from alignment.models.context_length import context_length
from alignment.stages.shared.stage_run import eval_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Options:
    """How much is looked at, and what share of the rows may be lost before that is an error.

    Attributes:
        sample: rows to look at in tokens, spread over all.
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
        report: the account of every row.
        whole: rows that the training split has where only its first ones were made.
    """

    splits: dict[str, Dataset]
    report: DataReport
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
        new_tokens: that the sft stage will give a base model's tokenizer.
        stand_in: whether it is a throw-away one, trained on a sample of the stage's own text.
        model: that is trained; None where it is not here.
        reward_model, reward_tokenizer: of PPO and GRPO, where the recipe names a reward model.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    stand_in: bool = False
    new_tokens: tuple[str, ...] = ()
    model: PlannedModel | None = None
    reward_model: PlannedModel | None = None
    reward_tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def config(self) -> PreTrainedConfig | None:
        return self.model.config if self.model else None

    @property
    def context(self) -> int | None:
        """Positions of the model."""
        return context_length(self.config) if self.config else None


@dataclass(frozen=True)
class Material:
    """All that the checks of a stage may look at.

    Attributes:
        encoded, pairs: the sample in tokens.
        longest: tokens of the longest row found, which need not be of the sample; of pairs of the longer side.
    """

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
    longest: int = 0

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
    def places(self) -> list[int]:
        """Which training rows are looked at in tokens: evenly spread, so that all sources of a mixture are seen."""
        rows = len(self.train)
        looked_at = min(self.options.sample, rows)
        return [number * rows // looked_at for number in range(looked_at)]

    @property
    def sample(self) -> list[dict[str, Any]]:
        return self.read("train").select(self.places).to_list()

    def read(self, split: str) -> Dataset:
        """A split's rows without the columns that only come along, whatever they are called."""
        return self.rows.splits[split].select_columns(list(KINDS[self.kind]))

    @property
    def estimated(self) -> str:
        """What to add to a count of tokens."""
        return " (estimated with a stand-in tokenizer)" if self.origin.stand_in else ""


def from_the_hub(data: DataArguments) -> list[str]:
    """The sources that would come from the hub."""
    here = (is_tinyworld, is_local, is_python_sources)
    return [source.name for source in data.sources() if not any(known(source.name) for known in here)]


def read_rows(data: DataArguments, kind: str, seed: int, card_split: str | None, options: Options) -> Rows:
    """A stage's rows as the stage itself would get them, with the account of every row.

    Of a streamed source, and before a run of a generated one too, only as many training rows are made as are looked at.

    Args:
        card_split: a further split, which a reward model is judged on.
    """
    data, whole = _smaller(data, kind, options)
    # A generated source keeps its splits apart by itself.
    held_out = {"card": card_split} if card_split and not whole else {}
    with _quiet("alignment.data"):  # what it logs is in the account
        prepared = prepare(data, kind, seed, keep=None, avoid=eval_texts(data), held_out=held_out)
    return Rows(dict(prepared.splits), prepared.report, whole)


def first_texts(data: DataArguments, count: int) -> list[str]:
    """The first documents of each source that a tokenizer is to be trained on."""
    smaller, _ = _smaller(data, "text", Options(sample=count, whole=False))
    texts: list[str] = []
    with _quiet("alignment.data"):
        for source in smaller.sources():
            part = read_part(replace(source, max_rows=count), source.split, "train", "text", ())
            texts += part.rows["text"][:]
    return texts


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger say no more than warnings."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _smaller(data: DataArguments, kind: str, options: Options) -> tuple[DataArguments, int | None]:
    """Arguments that give at most `options.sample` training rows, and how many the whole has; or the same ones."""
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
