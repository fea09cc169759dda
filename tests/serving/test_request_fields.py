"""Requests are read strictly: what the engine cannot give is refused by name."""

import json

import pytest

from alignment.serving.api.api_errors import ApiError
from alignment.serving.api.request_fields import NEUTRAL, ChatRequest, CompletionRequest, read_body

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def refusal(body, kind=ChatRequest) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_body(kind, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("logit_bias", {"5": 100}),
        ("min_p", 0.1),
        ("best_of", 4),
        ("best_of", True),
        ("echo", True),
        ("suffix", "x"),
        ("functions", [{}]),
        ("modalities", ["audio"]),
        ("store", True),
    ],
)
def test_fields_that_are_not_honoured_are_refused_by_name(field, value):
    for kind, body in ((ChatRequest, CHAT), (CompletionRequest, COMPLETION)):
        error = refusal(body | {field: value}, kind)
        assert error.message.startswith(f"{field} is not supported (accepted: ") and error.param == field


@pytest.mark.parametrize("field", NEUTRAL)
def test_neutral_values_are_accepted(field):
    for value in (*NEUTRAL[field], None):
        read_body(ChatRequest, json.dumps(CHAT | {field: value}).encode())
        read_body(CompletionRequest, json.dumps(COMPLETION | {field: value}).encode())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": "1"}, "temperature: "),
        ({"temperature": -0.1}, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": 2.5}, "temperature: Input should be less than or equal to 2"),
        ({"temperature": True}, "temperature: "),
        ({"top_p": 0}, "top_p: Input should be greater than 0"),
        ({"top_k": 1.5}, "top_k: "),
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"n": 129}, "n: Input should be less than or equal to 128"),
        ({"seed": 2**63}, "seed: "),
        ({"seed": 1.0}, "seed: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"stop": ""}, "stop.0: "),
        ({"stop": ["a"] * 17}, "stop: "),
        ({"stop": 5}, "stop: "),
        ({"stop": ["a", 5]}, "stop.1: "),
        ({"stream": "yes"}, "stream: "),
        ({"logprobs": 3}, "logprobs: "),
        ({"top_logprobs": 21}, "top_logprobs: "),
        ({"messages": []}, "messages: "),
        ({"messages": "hi"}, "messages: "),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: "),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type: "),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content: "),
        ({"messages": [{"role": "user"}]}, "messages.0.content: "),
        ({"messages": [*CHAT["messages"], {"role": "assistant", "content": "a"}]}, "messages: Value error, the last"),
        ({"model": 5}, "model: "),
        ({"temprature": 1}, "temprature is not a field of this request"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage: "),
    ],
)
def test_wrong_values_are_refused_by_name(changes, said):
    assert refusal(CHAT | changes).message.startswith(said), refusal(CHAT | changes).message


@pytest.mark.parametrize("prompt", [[], [[]], "", 5, ["a", 5], [[1], "a"], [-1], [1.0], [True], {"a": 1}, [[1], []]])
def test_wrong_prompts_are_refused(prompt):
    if prompt == "":
        assert read_body(CompletionRequest, json.dumps(COMPLETION | {"prompt": ""}).encode()).prompts() == [""]
    else:
        assert refusal(COMPLETION | {"prompt": prompt}, CompletionRequest).param.startswith("prompt")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts(prompt, expected):
    assert read_body(CompletionRequest, json.dumps(COMPLETION | {"prompt": prompt}).encode()).prompts() == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"5",
        b"[" * 100_000,
        b'{"model": "m", "messages": ' + b"[" * 100_000,
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "m", "temperature": NaN, "messages": [{"role": "user", "content": "a"}]}',
        b'{"model": "m", "temperature": 1e999, "messages": [{"role": "user", "content": "a"}]}',
        b'{"model": "m", "seed": ' + b"9" * 5000 + b', "messages": [{"role": "user", "content": "a"}]}',
    ],
)
def test_bodies_that_are_no_request(body):
    refusal(body)


def test_all_problems_are_named():
    message = refusal(CHAT | {"n": 0, "tools": [{}], "temperature": 9, "bogus": 1}).message
    assert all(name in message for name in ("n:", "tools is not supported", "temperature:", "bogus is not a field"))


def test_parts_of_a_message_are_joined_and_limits_read():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = CHAT | {"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 7, "logprobs": True}
    request = read_body(ChatRequest, json.dumps(body).encode())
    assert request.messages[0].as_turn() == {"role": "user", "content": "ab"}
    assert (request.limit(), request.scored(), request.stop) == (7, 0, [])
    assert read_body(ChatRequest, json.dumps(CHAT | {"top_logprobs": 3}).encode()).scored() is None
