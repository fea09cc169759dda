"""The server through OpenAI's own client: replies, their forms and counts."""

import asyncio
import itertools

import openai
import pytest
import torch
from served_tiny import client_of, engine_of, get, post, save_gpt, served_llama, serving, settled

from alignment.serving.batching.served_models import load_models, read_names

QUESTIONS = [f"{'word ' * (i % 5)}question {i}" for i in range(16)]
SYSTEM = {"role": "system", "content": "one two three"}


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = [save_gpt(folder / "gpt"), f"foreign={served_llama(folder / 'llama')}"]
    first, second = load_models(read_names(list(map(str, paths))), "cpu")
    with engine_of(first) as gpt, engine_of(second) as llama:
        yield {"gpt": gpt, "foreign": llama}


@pytest.fixture(scope="module")
def url(engines):
    with serving(list(engines.values())) as running:
        yield running.url


def with_client(url, ask):
    """What an async function of a client returns."""

    async def run():
        async with client_of(url) as client:
            return await ask(client)

    return asyncio.run(run())


def asked(index: int, model: str = "gpt", **changes) -> dict:
    """The arguments of a request: every other one is greedy, every third has a system prompt and a history."""
    history = (
        [SYSTEM, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] if index % 3 == 0 else []
    )
    settings = {"temperature": 0} if index % 2 else {"temperature": 1, "seed": index, "top_p": 0.9}
    messages = [*history, {"role": "user", "content": QUESTIONS[index]}]
    return {"model": model, "messages": messages, "max_tokens": 5 + index // 2} | settings | changes


async def streamed(client, arguments) -> str:
    stream = await client.chat.completions.create(stream=True, **arguments)
    return "".join([part.choices[0].delta.content or "" async for part in stream])


def generated(engine, arguments) -> str:
    """The greedy reply by `generate`, with its ids."""
    tokenizer, model = engine.tokenizer, engine.served.model
    ids = tokenizer.apply_chat_template(arguments["messages"], add_generation_prompt=True, return_tensors="pt")
    ids = ids["input_ids"]
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": ends, "pad_token_id": 0}
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=arguments["max_tokens"], **options)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("model", ["gpt", "foreign"])
def test_sixteen_streams_at_once_equal_each_alone_and_generate(url, engines, model):
    requests = [asked(i, model) for i in range(16)]

    async def at_once(client):
        return await asyncio.gather(*(streamed(client, one) for one in requests))

    async def one_by_one(client):
        return [(await client.chat.completions.create(**one)).choices[0].message.content for one in requests]

    together = with_client(url, at_once)
    if model == "gpt":  # no tie of two tokens decides among these requests
        assert with_client(url, one_by_one) == together
    engine = engines[model]
    assert [together[i] for i in range(1, 16, 2)] == [generated(engine, requests[i]) for i in range(1, 16, 2)]
    assert len(set(together)) == 16 and settled(engine)


def test_models_are_listed_without_their_paths(url, engines, tmp_path_factory):
    async def ask(client):
        return (await client.models.list()).data, await client.models.retrieve("gpt")

    listed, one = with_client(url, ask)
    assert [model.id for model in listed] == ["gpt", "foreign"] and one.id == "gpt"
    assert one.digest == engines["gpt"].served.digest and one.max_model_len == 256
    assert "/" not in get(f"{url}/v1/models").text.replace('"/', "")


def test_several_replies_have_seeds_of_their_own(url):
    async def ask(client):
        three = await client.chat.completions.create(**asked(4, n=3))
        again = await client.chat.completions.create(**asked(4, n=3))
        one = await client.chat.completions.create(**asked(4))
        stream = await client.chat.completions.create(**asked(4, n=3), stream=True)
        pieces = ["", "", ""]
        async for part in stream:
            pieces[part.choices[0].index] += part.choices[0].delta.content or ""
        return three, again, one, pieces

    three, again, one, pieces = with_client(url, ask)
    texts = [choice.message.content for choice in three.choices]
    assert texts == [choice.message.content for choice in again.choices] == pieces
    assert len(set(texts)) == 3 and texts[0] == one.choices[0].message.content
    assert three.usage.completion_tokens == 21 and three.usage.prompt_tokens == one.usage.prompt_tokens


def test_a_reply_without_a_seed_names_the_one_that_was_drawn(url):
    async def ask(client):
        arguments = asked(2)
        del arguments["seed"]
        first = await client.chat.completions.create(**arguments)
        other = await client.chat.completions.create(**arguments)
        return first, other, await client.chat.completions.create(**arguments, seed=first.seed)

    first, other, again = with_client(url, ask)
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.seed != other.seed


def test_the_form_of_a_stream(url):
    async def ask(client):
        stream = await client.chat.completions.create(**asked(1), stream=True, stream_options={"include_usage": True})
        return [part async for part in stream]

    parts = with_client(url, ask)
    assert parts[0].choices[0].delta.role == "assistant" and parts[0].choices[0].delta.content == ""
    assert [part.choices[0].finish_reason for part in parts[:-1]] == [None] * (len(parts) - 2) + ["length"]
    assert parts[-1].choices == [] and parts[-1].usage.completion_tokens == 5
    assert len({part.id for part in parts}) == 1
    raw = post(url, json=asked(1) | {"stream": True})
    assert raw.headers["content-type"].startswith("text/event-stream") and raw.text.endswith("data: [DONE]\n\n")
    assert not [line for line in raw.text.splitlines() if line and not line.startswith("data: ")]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_a_reply(url, engines, stream):
    async def text(client, **changes):
        arguments = asked(3, max_tokens=14, **changes)
        if stream:
            parts = [part async for part in await client.chat.completions.create(stream=True, **arguments)]
            return "".join(part.choices[0].delta.content or "" for part in parts), parts[-1].choices[0].finish_reason
        choice = (await client.chat.completions.create(**arguments)).choices[0]
        return choice.message.content, choice.finish_reason

    whole, reason = with_client(url, text)
    assert reason == "length"
    stop = whole[4:6]
    assert with_client(url, lambda client: text(client, stop=stop)) == (whole[: whole.index(stop)], "stop")
    several = [whole[8:10], "never said", stop]
    assert with_client(url, lambda client: text(client, stop=several)) == (whole[: whole.index(stop)], "stop")
    assert settled(engines["gpt"])


def test_the_columns_of_log_probabilities_of_a_completion(url):
    async def ask(client):
        settings = {"temperature": 0, "max_tokens": 8, "logprobs": 2}
        return await client.completions.create(model="gpt", prompt=[7, 8, 9], **settings)

    choice = with_client(url, ask).choices[0]
    columns = choice.logprobs
    assert len(columns.tokens) == len(columns.token_logprobs) == len(columns.top_logprobs) == 8
    assert columns.text_offset == [0, *itertools.accumulate(map(len, columns.tokens))][:-1]
    assert all(max(top.values()) == one for top, one in zip(columns.top_logprobs, columns.token_logprobs, strict=True))


def test_log_probabilities_of_the_chosen_and_the_most_likely_tokens(url):
    async def ask(client):
        arguments = asked(2, logprobs=True, top_logprobs=3)
        whole = await client.chat.completions.create(**arguments)
        stream = await client.chat.completions.create(**arguments, stream=True)
        parts = [part.choices[0].logprobs async for part in stream]
        return whole, [one for part in parts if part is not None for one in part.content]

    whole, entries = with_client(url, ask)
    found = whole.choices[0].logprobs.content
    assert [one.model_dump() for one in found] == [one.model_dump() for one in entries]
    assert len(found) == whole.usage.completion_tokens == 6
    assert all(len(one.top_logprobs) == 3 for one in found)
    assert any(one.logprob < one.top_logprobs[0].logprob for one in found)  # sampled, scored before sampling


def test_plain_prompts(url, engines):
    tokenizer = engines["gpt"].tokenizer

    async def ask(client):
        create = client.completions.create
        shared = {"model": "gpt", "temperature": 0}
        texts = await create(prompt=["one two", "three"], n=2, max_tokens=5, **shared)
        ids = await create(prompt=[tokenizer("one two")["input_ids"], tokenizer("three")["input_ids"]], **shared)
        stream = await create(prompt="one two", stream=True, max_tokens=5, **shared)
        return texts, ids, "".join([part.choices[0].text async for part in stream]), await create(prompt="", **shared)

    texts, ids, streamed_text, empty = with_client(url, ask)
    first = [choice.text for choice in texts.choices]
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert first[0] == first[1] == streamed_text != first[2] == first[3]
    assert ids.usage.completion_tokens == 32 and ids.choices[0].text.startswith(first[0])
    assert empty.usage.prompt_tokens == 1 and empty.choices[0].finish_reason


def test_a_reply_fills_the_context_unless_told_otherwise(url):
    async def ask(client):
        arguments = asked(1)
        del arguments["max_tokens"]
        arguments["messages"] = [{"role": "user", "content": "a" * 200}]
        full = await client.chat.completions.create(**arguments)
        room = 256 - full.usage.prompt_tokens
        await client.chat.completions.create(**arguments, max_tokens=room)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**arguments, max_tokens=room + 1)
        return full, caught.value, room

    full, error, room = with_client(url, ask)
    assert full.usage.total_tokens == 256 and full.choices[0].finish_reason == "length"
    assert error.code == "context_length_exceeded" and error.param == "max_tokens"
    assert (
        f"256 tokens, the prompt {256 - room}: max_tokens={room + 1}" in error.message and f"{room} do" in error.message
    )


def test_short_prompts_profit_from_earlier_ones(url, engines):
    async def ask(client):
        for index in range(4):
            messages = [SYSTEM, {"role": "user", "content": f"{index}?"}]
            await client.chat.completions.create(model="gpt", messages=messages, max_tokens=2)

    before = engines["gpt"].figures().shared
    with_client(url, ask)
    assert engines["gpt"].figures().shared - before >= 3 * 16


def test_metrics(url):
    text = get(f"{url}/metrics").text
    for line in (
        'align_requests_total{route="/v1/chat/completions",status="200"}',
        'align_replies_total{model="gpt",reason="length"}',
        'align_generated_tokens_total{model="gpt"}',
        'align_time_to_first_token_seconds_count{model="gpt"}',
        'align_reply_tokens_per_second_count{model="gpt"}',
        'align_replies_in_progress{model="gpt",state="waiting"} 0.0',
        'align_cache_bytes{model="gpt",state="held"} 0.0',
        'align_cached_prompt_tokens_total{model="gpt"}',
        'align_engine_up{model="gpt"} 1.0',
    ):
        assert line in text, line
