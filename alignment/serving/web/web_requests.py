"""The bodies of the pages' requests, and the replies that they ask for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from pydantic import Field, field_validator

from alignment.serving.api.answers_in_progress import Answer, Offered, read_prompts
from alignment.serving.api.metrics_of_server import ServerMetrics
from alignment.serving.api.request_fields import ChatRequest, CompletionRequest, Message, Strict
from alignment.serving.api.shapes import ChatShape, CompletionShape

MOST_TOKENS = 2**20
Vote = Literal["a", "b", "tie", "both_bad"]


class Settings(Strict):
    """How a reply is sampled. The limit is lowered to what the context leaves."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 256


class Asked(Settings):
    """A conversation that waits for a reply."""

    messages: Annotated[list[Message], Field(min_length=1)]

    @field_validator("messages")
    @classmethod
    def ends_with_the_user(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return messages

    def turns(self) -> list[dict[str, str]]:
        """Return the messages as chat templates read them."""
        return [message.as_turn() for message in self.messages]


class ReplyRequest(Asked):
    """A reply of a named model."""

    model: str


class ComparisonRequest(Asked):
    """A blind comparison of two of some models."""

    models: Annotated[list[str], Field(min_length=2, max_length=64)]


class VoteRequest(Strict):
    """A vote on a comparison."""

    vote: Vote


class ScoreRequest(Strict):
    """A reply whose tokens a model shall score."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    reply: Annotated[str, Field(min_length=1)]

    def turns(self) -> list[dict[str, str]]:
        """Return the messages as chat templates read them."""
        return [message.as_turn() for message in self.messages]


def api_request(offered: Offered, turns: list[dict[str, str]], settings: Settings) -> ChatRequest | CompletionRequest:
    """Return the request of OpenAI's API for a reply.

    Without a chat template, a model completes the last message, as in `align chat`.
    """
    sampling: dict[str, Any] = {
        "temperature": settings.temperature,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
    }
    sampling = {name: value for name, value in sampling.items() if value is not None} | {"model": offered.engine.name}
    if offered.reader.tokenizer.chat_template:
        return ChatRequest.model_validate({**sampling, "messages": turns})
    return CompletionRequest.model_validate({**sampling, "prompt": turns[-1]["content"]})


async def fitted(offered: Offered, turns: list[dict[str, str]], settings: Settings) -> Settings:
    """Return the settings with a limit that the context has room for.

    Raises:
        ApiError: the context leaves no room for a reply, or the model cannot be given the conversation.
    """
    room = offered.reader.room(await read_prompts(offered.reader, api_request(offered, turns, settings)), None)
    return settings.model_copy(update={"max_tokens": min(settings.max_tokens, room)})


async def begin(offered: Offered, turns: list[dict[str, str]], settings: Settings, metrics: ServerMetrics) -> Answer:
    """Have a reply generated. The answer is to be closed.

    Raises:
        ApiError: the conversation does not fit, the queue is full, or the engine is down.
    """
    body = api_request(offered, turns, await fitted(offered, turns, settings))
    shape = ChatShape() if isinstance(body, ChatRequest) else CompletionShape()
    return Answer(offered, body, await read_prompts(offered.reader, body), metrics, shape)


async def prompt_ids(offered: Offered, turns: list[dict[str, str]]) -> list[int]:
    """Return the token ids of a conversation, up to where the reply begins."""
    if offered.reader.tokenizer.chat_template:
        return await to_thread.run_sync(offered.reader.conversation, turns)
    return await to_thread.run_sync(offered.reader.plain, turns[-1]["content"])
