"""The fields of requests, checked strictly: a field that the engine cannot honour is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError, field_validator

from alignment.serving.api.api_errors import ApiError

MOST_STOPS, MOST_REPLIES, MOST_TOP = 16, 128, 20
DEFAULT_COMPLETION = 16  # tokens, as in OpenAI's API
# Fields of OpenAI's API that are not honoured, and the values that ask for nothing: those are accepted.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
# A single text for a list of one: errors then name the place in the list, not the types of a union.
Stop = Annotated[str, Field(min_length=1, max_length=1024)]
Tokens = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)]


class Strict(BaseModel):
    """A part of a request: no unknown fields, no conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[
        list[TextPart],
        Field(min_length=1),
        BeforeValidator(lambda value: [{"type": "text", "text": value}] if isinstance(value, str) else value),
    ]
    name: None = None

    def as_turn(self) -> dict[str, str]:
        """Return the turn as chat templates read it."""
        return {"role": self.role, "content": "".join(part.text for part in self.content)}


class StreamOptions(Strict):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Common(Strict):
    """Fields of both kinds of request."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[
        list[Stop],
        Field(max_length=MOST_STOPS),
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    ] = []
    n: Annotated[int, Field(ge=1, le=MOST_REPLIES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None

    def includes_usage(self) -> bool:
        """Return whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Common):
    """The body of a request to /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None

    @field_validator("messages")
    @classmethod
    def ends_with_a_question(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role == "assistant":
            raise ValueError("the last message must not be the assistant's: a reply is not continued")
        return messages

    def limit(self) -> int | None:
        """Return the largest number of tokens of a reply; None for as many as fit into the context."""
        return self.max_completion_tokens or self.max_tokens

    def scored(self) -> int | None:
        """Return the number of likely tokens to report with each token; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Common):
    """The body of a request to /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else list(self.prompt)

    def limit(self) -> int:
        """Return the largest number of tokens of a reply."""
        return self.max_tokens or DEFAULT_COMPLETION

    def scored(self) -> int | None:
        """Return the number of likely tokens to report with each token; None for no log-probabilities."""
        return self.logprobs


Body = TypeVar("Body", bound=Strict)


def read_body(kind: type[Body], body: bytes) -> Body:
    """Read a request's body.

    Raises:
        ApiError: it is no JSON, or fields are wrong, unknown or not honoured; all of them are named.
    """
    try:
        return kind.model_validate_json(without_neutral(body))
    except ValidationError as error:
        raise _refusal(error, kind) from None


def without_neutral(body: bytes) -> bytes:
    """Return the body without fields that ask for nothing: unsupported fields with neutral values, and nulls."""
    from pydantic_core import from_json, to_json

    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError:
        return body  # which the caller refuses
    if not isinstance(content, dict):
        return body
    kept = {
        name: value
        for name, value in content.items()
        if value is not None and not (name in NEUTRAL and any(_same(value, one) for one in NEUTRAL[name]))
    }
    return to_json(kept)


def _same(value: Any, neutral: Any) -> bool:
    """Return whether a value is a neutral one; True is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _refusal(error: ValidationError, kind: type[Strict]) -> ApiError:
    lines, params = [], []
    for one in error.errors(include_url=False, include_context=False):
        place = ".".join(str(part) for part in one["loc"] if not _is_type(part))
        if one["type"] == "extra_forbidden":
            known = place in NEUTRAL
            line = f"{place} is not supported" if known else f"{place} is not a field of this request"
            if known:
                line += f" (accepted: {' or '.join(repr(value) for value in NEUTRAL[place])})"
        else:
            line = f"{place}: {one['msg']}" if place else one["msg"]
        if line not in lines:
            lines.append(line)
            params.append(place)
    return ApiError(400, "; ".join(lines[:12]), param=params[0] or None)


def _is_type(part: str | int) -> bool:
    """Return whether a part of an error's place is a type: pydantic names the members of a union there."""
    return isinstance(part, str) and ("[" in part or part in ("str", "constrained-str"))
