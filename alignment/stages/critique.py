"""The critique stage: a critic criticises replies by principles and revises them, as rows for SFT and for preferences.

Constitutional AI's supervised stage (Bai et al. 2022, arXiv 2212.08073, section 3): for each reply and round a
principle is drawn; the critic writes a critique of the reply, then a revision. A row holds the conversation with the
last revision (`messages`, for sft), the pair of revision and original (`prompt`, `chosen`, `rejected`) and every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from alignment.errors import UserError, gathered, raise_all
from alignment.keyed_seeds import keyed_seed
from alignment.stages import CAUSAL_LM, STAGES
from alignment.stages.made_rows.critique_requests import Requests, requests_of
from alignment.stages.made_rows.data_run import DataRun
from alignment.stages.made_rows.made_parts import Part
from alignment.stages.made_rows.own_columns import without_replies
from alignment.stages.made_rows.read_rows import RowArguments
from alignment.stages.made_rows.rows_to_come import PAIR_TO_COME, PROMPT, SAID, Asking, RowsToCome
from alignment.stages.made_rows.sampling_keys import SamplingKeys
from alignment.stages.made_rows.stored_answers import answers_of_run, look_at_answers
from alignment.stages.made_rows.writers import EndpointWriter, LocalWriter, Writer, Written, endpoint_of
from alignment.stages.shared.inputs import load_data
from alignment.stages.shared.result import StageResult
from alignment.tokenization.chat_format import Messages, require_template
from reward_models.judges.principles import CRITIC, Principle, read_principles

PARENTS = {"model_name_or_path": CAUSAL_LM}


@dataclass
class CritiqueRecipe(SamplingKeys):
    """The critic, its principles, and how it is asked."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "The critic: a checkpoint with a chat template."}
    )
    endpoint: str | None = field(
        default=None,
        metadata={
            "help": "A critic behind an endpoint instead: reward_models.api_judge:api?base_url=URL&model=NAME. Its "
            "temperature is 0."
        },
    )
    principles: str = field(
        default="", metadata={"help": "A YAML file of principles, a list of {name, critique, revise}."}
    )
    rounds: int = field(default=1, metadata={"help": "Critiques and revisions of each reply, one after the other."})
    examples: str | None = field(
        default=None,
        metadata={
            "help": "A YAML file of worked examples, shown before each request: a list of {principle, prompt, reply, "
            "critique, revision}."
        },
    )
    critique_template: str | None = field(
        default=None, metadata={"help": "The request, as text or a file, with {principle}, {prompt} and {reply}."}
    )
    revise_template: str | None = field(
        default=None,
        metadata={"help": "The request, as text or a file, with {principle}, {prompt}, {reply} and {critique}."},
    )
    no_fault: str | None = field(
        default=None,
        metadata={"help": "A critique with this text finds no fault: the reply stays, and no revision is asked."},
    )
    temperature: float = field(default=0.0, metadata={"help": "0 for greedy decoding."})
    max_completion_length: int = field(default=256, metadata={"help": "Tokens of a critique or revision at most."})

    def __post_init__(self) -> None:
        errors: list[UserError] = []
        with gathered(errors):
            super().__post_init__()
        if (self.model_name_or_path is None) == (self.endpoint is None):
            got = "neither" if self.endpoint is None else "both"
            errors.append(UserError("a critic is either model_name_or_path or endpoint", got=got))
        if self.rounds < 1:
            errors.append(UserError("rounds leaves no revision", got=self.rounds, expected="1 or more"))
        if self.no_fault is not None and not self.no_fault.strip():
            problem = "no_fault is in every critique"
            errors.append(UserError(problem, got=repr(self.no_fault), expected="a text, or null to revise every reply"))
        for read in (self.sampling, self.requests, *([self._endpoint] if self.endpoint else [])):
            with gathered(errors):
                read()
        raise_all(errors)

    def _endpoint(self) -> None:
        endpoint_of(str(self.endpoint))

    def read_principles(self) -> list[Principle]:
        """The principles."""
        if not self.principles:
            raise UserError(
                "the recipe has no principles", expected="principles: a YAML file of {name, critique, revise}"
            )
        return read_principles(self.principles, CRITIC)

    def requests(self) -> Requests:
        """How the critic is asked."""
        return requests_of(self.critique_template, self.revise_template, self.examples, self.read_principles())


CONFIGS = (CritiqueRecipe, RowArguments)


def rows_to_come(args: CritiqueRecipe, data: RowArguments) -> RowsToCome:
    """What is known of the rows before they are written."""
    return RowsToCome({"messages": [*PROMPT, *SAID[0]], **PAIR_TO_COME, "steps": []}, without_replies)


def asking(args: CritiqueRecipe, data: RowArguments) -> Asking:
    """What the critic will be asked."""
    requests = args.requests()
    principle, critique = next(iter(requests.principles.values())), "word " * args.max_completion_length

    def questions(row: Mapping[str, Any]) -> list[Messages]:
        *prompt, last = row["messages"]
        first = requests.for_critique(principle, prompt, last["content"])
        return [first, requests.for_revision(principle, prompt, last["content"], critique)]

    how = f"{args.rounds} round{'s' if args.rounds > 1 else ''} x 2 answers"
    endpoints = int(args.endpoint is not None)
    return Asking(2 * args.rounds, how, "model_name_or_path", args.max_completion_length, endpoints, questions, 1)


def require_outside(args: CritiqueRecipe, data: RowArguments) -> None:
    """Raise before any stage of a run if the critic is not there."""
    if args.endpoint:
        endpoint_of(args.endpoint).require_ready()
    elif Path(str(args.model_name_or_path)).is_dir():  # otherwise a stage has yet to write it
        require_template(str(args.model_name_or_path))


def check(args: CritiqueRecipe, data: RowArguments) -> None:
    if args.model_name_or_path:
        require_template(args.model_name_or_path)


def run(args: CritiqueRecipe, data: RowArguments) -> StageResult:
    stage = DataRun("critique", args)
    requests = args.requests()
    rows = load_data(data, STAGES["critique"].data, args.seed, stage.folder, keep=None)["train"].to_list()
    with writer_of(args, stage.folder) as writer:

        def make(start: int, some: Sequence[dict[str, Any]]) -> Part:
            writer.begin_part(start // stage.size)
            revised = [Revised.of(row) for row in some]
            for number in range(args.rounds):
                revise(revised, number, args.seed, requests, writer.write, args.no_fault)
            tokens = sum(one.tokens for one in revised)
            rows = [one.row() for one in revised if not one.lost]
            left_out = [one.row() | {"left_out": one.lost} for one in revised if one.lost]
            return Part(rows, left_out, counts_of(revised) | writer.counts, tokens)

        stage.make(rows, make, "replies")
    look = look_at_answers(writer.store) if isinstance(writer, EndpointWriter) else []
    return stage.finish({"model_name_or_path": args.model_name_or_path}, data, "sft", look=look)


@contextmanager
def writer_of(args: CritiqueRecipe, folder: Path) -> Iterator[Writer]:
    """The critic of a recipe, ready to write."""
    if args.endpoint is None:
        from eval.harness.run_suite import load_checkpoint

        yield LocalWriter(load_checkpoint(str(args.model_name_or_path)), args.sampling())
        return
    critic = endpoint_of(args.endpoint)
    critic.require_ready()
    with answers_of_run(folder) as store:
        yield EndpointWriter(critic, store, args.max_completion_length)


@dataclass
class Revised:
    """A reply under revision.

    Attributes:
        source: the row, {messages, ...}.
        reply: as revised so far.
        steps: {principle, critique, revision} of each round; the revision is the reply itself if there is no fault.
        lost: why a round has no revision; "" if all have one.
    """

    source: dict[str, Any]
    prompt: Messages
    original: str
    reply: str
    steps: list[dict[str, str]]
    lost: str = ""
    tokens: int = 0
    revisions: int = 0

    @classmethod
    def of(cls, row: dict[str, Any]) -> Revised:
        *prompt, last = row["messages"]
        return cls(row, prompt, last["content"], last["content"], [])

    def principle(self, principles: Sequence[Principle], number: int, seed: int) -> Principle:
        """The principle of a round, which the row's content draws: without repetition while there are others."""
        order = list(principles)
        Random(keyed_seed(seed, self.prompt, self.original)).shuffle(order)
        return order[number % len(order)]

    def take(self, written: Written, step: str) -> None:
        """Count an answer, and note why the reply is lost if there is no text."""
        self.tokens += written.tokens
        self.lost = f"{step}: {written.why_not}" if written.why_not else ""

    def keep(self, principle: Principle, critique: Written) -> None:
        """Record a round, with the reply that it ended with."""
        self.steps.append({"principle": principle.name, "critique": critique.text, "revision": self.reply})

    def row(self) -> dict[str, Any]:
        """The row of the revision."""
        said = [[{"role": "assistant", "content": text}] for text in (self.reply, self.original)]
        pair = {"prompt": self.prompt, "chosen": said[0], "rejected": said[1]}
        return without_replies(self.source) | {"messages": [*self.prompt, *said[0]]} | pair | {"steps": self.steps}


def revise(
    replies: Sequence[Revised],
    number: int,
    seed: int,
    requests: Requests,
    write: Callable[[Sequence[Messages]], list[Written]],
    no_fault: str | None = None,
) -> None:
    """One round, in place: a critique of each reply that is not lost, then a revision if the critique finds a fault."""
    left = [one for one in replies if not one.lost]
    by = [one.principle(list(requests.principles.values()), number, seed) for one in left]
    asked = [requests.for_critique(principle, one.prompt, one.reply) for one, principle in zip(left, by, strict=True)]
    critiques = write(asked)
    going = []
    for one, principle, said in zip(left, by, critiques, strict=True):
        one.take(said, "critique")
        if not one.lost and no_fault is not None and no_fault in said.text:
            one.keep(principle, said)
        elif not one.lost:
            going.append((one, principle, said))
    asked = [requests.for_revision(principle, one.prompt, one.reply, said.text) for one, principle, said in going]
    for (one, principle, critique), written in zip(going, write(asked), strict=True):
        one.take(written, "revision")
        if not one.lost:
            one.reply = written.text
            one.revisions += 1
            one.keep(principle, critique)


def counts_of(replies: Sequence[Revised]) -> Counter[str]:
    """What became of the replies."""
    counts = Counter(f"replies left out: {one.lost}" for one in replies if one.lost)
    counts["critiques without a fault"] = sum(len(one.steps) - one.revisions for one in replies)
    counts["revisions"] = sum(one.revisions for one in replies)
    counts["replies left as they were"] = sum(not one.lost and one.reply == one.original for one in replies)
    return counts
