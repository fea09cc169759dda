"""lm-eval's API models with the transport of this project.

lm-eval's `local-chat-completions` and `local-completions` make the requests. Their transport is not used: it needs two
more packages, sends OPENAI_API_KEY to whatever address it is given, repeats requests that the server refuses, scores a
response that it does not understand as an empty reply, loses all replies if one request fails, and gives all repeats
of a prompt one seed. Of more than four stop strings, the most that OpenAI's API takes, it drops the others; here the
first four are sent, and replies are cut at all of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval.models.api_models import JsonChatStr, TemplateAPI
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from lm_eval.models.utils import normalize_gen_kwargs

from alignment.errors import UserError
from alignment.keyed_seeds import keyed_seed
from alignment.progress import passing_line
from eval.conditions.left_out import to_fit
from eval.endpoint.address import ROUTES
from eval.endpoint.endpoint_client import EndpointClient, EndpointRefuses, PromptTooLong
from eval.endpoint.said import CUT, Said, as_answer, from_answer, read_said
from reward_models.judges.answer_store import AnswerStore, answer_key
from reward_models.judges.api import GaveUp

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

logger = logging.getLogger(__name__)
STOPS = 4  # stop strings per request
SEEDS = 2**31  # servers read seeds as 32 bits, some with a sign
LONGEST_REPLY = 256  # tokens, where a task says nothing; lm-eval's
GREEDY = ("top_k", "top_p", "min_p", "temperature")  # settings without effect on a greedy reply


@dataclass(frozen=True)
class EndpointReply:
    """A reply, cut at the task's stop strings.

    Attributes:
        gen_len: length in tokens; None if the server does not say, or cut its reply later than the task.
        truncated: whether the length limit cut the reply.
    """

    text: str
    gen_len: int | None
    truncated: bool


@dataclass(frozen=True)
class Ask:
    """A request: its item, its JSON, and the stop strings at which its reply is cut."""

    item: tuple[str, int]
    payload: dict[str, Any]
    stops: tuple[str, ...]
    key: str


class EndpointLM:
    """The part of both classes that differs from lm-eval's: requests are sent at once, kept and counted.

    Args:
        client: of the endpoint.
        store: replies of an evaluation that was interrupted, and of this one.
        concurrency: requests at a time. Each request has one prompt, as not every server takes several.
        seed: sent with each greedy request, as lm-eval does; those that are sampled have seeds derived from it.
        too_long: `skip` items whose prompt the server refuses as too long, or `refuse` the suite.
        with_examples: names of the tasks that draw few-shot examples, for advice.

    Attributes:
        replies: (task name, document index) -> the replies of `generate_until`.
        skipped: (task name, document index) of the requests that were skipped.
        context: unknown.
        asked, resumed: numbers of replies that the server gave now, and before an interruption.
        said: all replies as the server gave them.
    """

    format: str

    def __init__(
        self,
        client: EndpointClient,
        store: AnswerStore,
        *,
        concurrency: int,
        seed: int,
        too_long: str,
        with_examples: list[str],
    ):
        super(TemplateAPI, self).__init__()  # lm-eval's own insists on the packages of its transport
        # What the methods that make requests read.
        self.model, self.tokenizer_backend, self.tokenized_requests = client.endpoint.model, None, False
        self._batch_size, self._max_gen_toks = 1, LONGEST_REPLY
        self.client, self.store, self.concurrency, self.seed = client, store, concurrency, seed
        self.too_long, self.with_examples, self.context = too_long, with_examples, None
        self.replies: dict[tuple[str, int], list[EndpointReply]] = {}
        self.skipped: set[tuple[str, int]] = set()
        self.said: list[Said] = []
        self.asked = self.resumed = 0

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Ask for replies, returned in the order of `requests`.

        Equal requests are sent once.

        Raises:
            UserError: the server refuses a request, or gives no reply after several attempts. The replies until then
                are stored.
        """
        repeats: Counter[tuple] = Counter()
        asks = []
        for request in requests:
            place = (request.task_name, request.doc_id, request.idx)
            asks.append(self._ask(request, repeats[place]))
            repeats[place] += 1
        found = self._replies(asks)
        replies = []
        for ask in asks:
            reply = cut(found[ask.key], ask.stops) if ask.key in found else EndpointReply("", None, truncated=False)
            self.replies.setdefault(ask.item, []).append(reply)
            replies.append(reply.text)
        self._require_some_text(found)
        return replies

    def _ask(self, request: Instance, repeat: int) -> Ask:
        """The request of an item; a sampled one has a seed of its own, on which the order has no influence."""
        prompt, settings = request.args
        options = dict(normalize_gen_kwargs(settings, LONGEST_REPLY))
        stops, sampled = tuple(stop for stop in options.pop("until") if stop), options["do_sample"]
        options = {key: value for key, value in options.items() if value is not None}
        seed = self.seed
        if sampled:
            seed = keyed_seed(seed, request.task_name, request.doc_id, request.idx, repeat) % SEEDS
        else:
            options = {key: value for key, value in options.items() if key not in GREEDY}
        payload = self.payload(prompt, {"until": list(stops[:STOPS]), **options}, seed)
        item = (str(request.task_name), int(request.doc_id or 0))
        return Ask(item, payload, stops, answer_key({"url": self.client.endpoint.url}, ROUTES[self.format], payload))

    def payload(self, prompt: str, settings: dict, seed: int) -> dict[str, Any]:
        """The JSON that lm-eval sends; without an empty list of stop strings, which OpenAI's API refuses."""
        made = self._create_payload(self._message(prompt), generate=True, gen_kwargs=settings, seed=seed, eos=None)  # type: ignore[attr-defined]
        return {key: value for key, value in made.items() if (key, value) != ("stop", [])}

    def _message(self, prompt: str) -> Any:
        return self.create_message([prompt])  # type: ignore[attr-defined]

    def _replies(self, asks: list[Ask]) -> dict[str, Said]:
        """Key -> reply of all requests but the skipped ones; what is not stored is asked."""
        found, open_ = {}, {}
        for ask in asks:
            if stored := self.store.get(ask.key):
                found[ask.key] = from_answer(stored)
            else:
                open_[ask.key] = ask
        self.resumed += len(found)
        if found:
            logger.warning(
                "%d of %d replies are those of an interrupted run of this command, in %s: remove the file to ask again",
                *(len(found), len(found) + len(open_), self.store.path),
            )
        too_long: dict[str, str] = {}
        for key, reply in self._asked(open_):
            if isinstance(reply, Said):
                found[key] = reply
            else:
                too_long[key] = reply.said
        self._leave_out(asks, too_long)
        self.said += found.values()
        return found

    def _asked(self, asks: Mapping[str, Ask]) -> list[tuple[str, Said | PromptTooLong]]:
        """(key, reply) of each request, stored as soon as it is there.

        Raises:
            UserError: a request fails for good; the others are stopped.
        """
        results: list[tuple[str, Said | PromptTooLong]] = []
        failure = None
        with passing_line("replies", len(asks)) as line, ThreadPoolExecutor(self.concurrency) as threads:
            jobs = {threads.submit(self._reply, ask): key for key, ask in asks.items()}
            try:
                for job in as_completed(jobs):
                    results.append((jobs[job], job.result()))
                    line.count_to(len(results))
            except GaveUp as error:
                failure = str(error)
            finally:  # also when the run is interrupted; requests in flight are waited for, and their replies stored
                self.client.stopping.set()
                threads.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            stored = sum(self.store.get(key) is not None for key in asks)
            raise self._no_answer(failure, stored + self.resumed, len(asks) + self.resumed)
        self.client.stopping.clear()
        self.asked += len(results)
        return results

    def _reply(self, ask: Ask) -> Said | PromptTooLong:
        try:
            said = self.client.ask(ROUTES[self.format], ask.payload, read_said)
        except PromptTooLong as error:
            return error
        except EndpointRefuses as error:
            task, number = ask.item
            what = f"item {number} of task {task!r}"
            raise EndpointRefuses(self.client.endpoint, error.status, error.said, what=what) from None
        self.store.put(ask.key, as_answer(said))
        return said

    def _no_answer(self, said: str, done: int, of: int) -> UserError:
        return UserError(
            f"No answer from {self.client.endpoint.name}.",
            got=said,
            expected=f"a reply to each prompt; {done} of {of} are stored",
            fix="check the server (or ask less at a time: --batch_size 1), and repeat the command: it resumes",
        )

    def _leave_out(self, asks: list[Ask], too_long: dict[str, str]) -> None:
        """Record the items of prompts that are too long, or refuse the suite."""
        if not too_long:
            return
        items = {ask.item for ask in asks if ask.key in too_long}
        if self.too_long == "refuse":
            task = next(ask.item[0] for ask in asks if ask.key in too_long)
            counts = [len({item for item in some if item[0] == task}) for some in (items, {ask.item for ask in asks})]
            raise UserError(
                f"{counts[0]} of {counts[1]} items of task {task!r} do not fit into the model's context.",
                got=next(iter(too_long.values())),
                fix=f"{to_fit(task in self.with_examples, True)}, or leave such items out (--too_long skip)",
            )
        self.skipped |= items

    def _require_some_text(self, found: dict[str, Said]) -> None:
        """Warn of replies without text, and raise if there is no other."""
        nulls = [said for said in found.values() if said.text is None]
        if not nulls:
            return
        counts = Counter(str(said.finish_reason) for said in nulls)
        reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(counts.items()))
        if len(nulls) == len(found):
            raise UserError(
                f"No reply of {self.client.endpoint.name} has text.",
                got=f"null contents ({reasons})",
                fix="a model that reasons first needs longer replies: SUITE?max_gen_toks=4096",
            )
        logger.warning(
            "%d of %d replies have no text (null; %s) and are scored as empty", len(nulls), len(found), reasons
        )


class PlainEndpoint(EndpointLM, LocalCompletionsAPI):
    """lm-eval's `local-completions`: prompts as text."""

    format = "plain"


class ChatEndpoint(EndpointLM, LocalChatCompletion):
    """lm-eval's `local-chat-completions`: prompts as messages, which the server renders by its chat template."""

    format = "chat"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages as JSON: the prompt of the items."""
        return super().apply_chat_template(chat_history, add_generation_prompt).prompt

    def _message(self, prompt: str) -> Any:
        return self.create_message([JsonChatStr(prompt)])


def cut(said: Said, stops: tuple[str, ...]) -> EndpointReply:
    """Cut a reply at its first stop string, as that of a local model is: some servers leave the stop in the text."""
    text = said.text or ""
    places = [text.index(stop) for stop in stops if stop in text]
    if places:
        return EndpointReply(text[: min(places)], None, truncated=False)
    return EndpointReply(text, said.tokens, truncated=said.finish_reason == CUT)
