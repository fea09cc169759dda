"""Engines: a reply depends on its request alone, and is what `generate` gives."""

import asyncio
import itertools

import pytest
import torch
from served_tiny import CONTEXT, engine_of, save_gpt, settled, slowed

from alignment.errors import UserError
from alignment.serving.batching.cache_budget import RESERVED
from alignment.serving.batching.engine import Engine
from alignment.serving.batching.engine_check import require_agreement
from alignment.serving.batching.engine_settings import EngineSettings
from alignment.serving.batching.keyed_sampling import Sampling
from alignment.serving.batching.pending_replies import QueueFull, Request
from alignment.serving.batching.served_models import load_models, read_names
from alignment.serving.batching.short_prompts_first import due

TIE = 1e-4  # of two tokens' log-probabilities: rounding may choose either
LENGTHS = [1, 3, 15, 16, 17, 31, 33, 40, 64, 70, 90, 100]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return load_models(read_names([str(save_gpt(tmp_path_factory.mktemp("models") / "gpt"))]), "cpu")[0]


@pytest.fixture(scope="module")
def engine(served):
    with engine_of(served) as engine:
        yield engine


def prompts_of(lengths, vocabulary, shared=0) -> list[list[int]]:
    """Random prompts, the first tokens of all the same."""
    draw = torch.Generator().manual_seed(1)
    beginning = torch.randint(6, vocabulary, (shared,), generator=draw).tolist()
    return [beginning + torch.randint(6, vocabulary, (n,), generator=draw).tolist() for n in lengths]


def samplings_of(count, temperature) -> list[Sampling]:
    return [Sampling(temperature=temperature, seed=7 * row, top_p=0.95, top_logprobs=2) for row in range(count)]


async def collected(engine, prompts, samplings, limit=24, ends=()) -> list[list[int]]:
    """The replies' tokens, generated at once."""
    replies = engine.submit(Request(prompts, samplings, limit, list(ends)))
    found, unfinished = [[] for _ in prompts], len(prompts)
    while unfinished:
        step = await asyncio.wait_for(replies.steps.get(), 30)
        assert step.error is None, step.error
        found[step.reply] += step.tokens
        unfinished -= step.finished
    return found


def generated(engine, prompts, samplings, **options) -> list[list[int]]:
    return asyncio.run(collected(engine, prompts, samplings, **options))


def alone(engine, prompts, samplings, **options) -> list[list[int]]:
    return [generated(engine, [prompt], [one], **options)[0] for prompt, one in zip(prompts, samplings, strict=True)]


def ties(model, prompts, found, expected) -> int:
    """The number of replies that differ, each at a tie of the two best tokens; fails for any other difference."""
    count = 0
    for prompt, one, other in zip(prompts, found, expected, strict=True):
        if one == other:
            continue
        first = next(at for at, (a, b) in enumerate(itertools.zip_longest(one, other)) if a != b)
        logits = model(torch.tensor([prompt + one[:first]]), use_cache=False).logits[0, -1].log_softmax(-1)
        assert abs(logits[one[first]] - logits[other[first]]) < TIE
        count += 1
    return count


def test_greedy_replies_are_those_of_generate(engine):
    prompts = prompts_of(LENGTHS, engine.vocabulary)
    found = generated(engine, prompts, [Sampling()] * len(prompts), ends=[4])
    model = engine.served.model
    with torch.no_grad():
        expected = [
            model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24, eos_token_id=4, pad_token_id=0)
            for prompt in prompts
        ]
        expected = [ids[0, len(prompt) :].tolist() for ids, prompt in zip(expected, prompts, strict=True)]
        assert ties(model, prompts, found, expected) == 0
    assert len({tuple(one) for one in found}) > len(found) / 2  # the prompts matter


@pytest.fixture(scope="module")
def single(engine):
    """Prompts that begin alike, their settings (every third is greedy), and the reply to each alone."""
    prompts = prompts_of(LENGTHS, engine.vocabulary, shared=20)
    samplings = samplings_of(len(prompts), 1.0)
    samplings[::3] = [Sampling()] * len(samplings[::3])
    return prompts, samplings, alone(engine, prompts, samplings, limit=8)


@pytest.mark.parametrize(
    "settings",
    [
        {"block": 4, "chunk": 16},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"block": 64}, marks=pytest.mark.slow),
        pytest.param({"share_prefixes": False, "chunk": 512}, marks=pytest.mark.slow),
        pytest.param({"streams": 3}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_reply_does_not_depend_on_neighbours_order_or_settings(served, single, settings):
    prompts, samplings, expected = single
    with engine_of(served, **settings) as other:
        for order in (range(len(prompts)), reversed(range(len(prompts)))):
            order = list(order)
            found = generated(other, [prompts[i] for i in order], [samplings[i] for i in order], limit=8)
            assert found == [expected[i] for i in order]


def test_replies_that_are_evicted_and_computed_again_are_the_same(served, engine):
    """A cache in which one of four replies fits to its end."""
    prompts = prompts_of([30] * 4, engine.vocabulary)
    samplings = samplings_of(4, 1.0)
    expected = alone(engine, prompts, samplings, limit=24)
    with engine_of(served, memory=tight(engine, 64)) as small:
        evicted = []
        offload = small.processor.offloading_manager.offload_requests
        small.processor.offloading_manager.offload_requests = lambda: evicted.append(1) or offload()
        assert generated(small, prompts, samplings, limit=24) == expected
        assert evicted and settled(small)


def test_convolutions_keep_a_state_for_each_request(tmp_path):
    """With chunks shorter than prompts, other requests in the same pass, evictions and clients that leave."""
    one = load_models(read_names([str(save_gpt(tmp_path / "conv", "conv"))]), "cpu")[0]
    prompts = prompts_of([2, 9, 30, 33, 40, 1], 200)
    samplings = samplings_of(len(prompts), 1.0)
    with engine_of(one, chunk=16) as engine:
        expected = alone(engine, prompts, samplings, limit=9)
        assert generated(engine, prompts, samplings, limit=9) == expected
        memory = tight(engine, 64)
        assert len(engine.convolutions.layers[0]) <= len(prompts)
        asyncio.run(left_open(engine, prompts, samplings))
        assert generated(engine, prompts[:1], samplings[:1], limit=9) == expected[:1]
        assert len(engine.convolutions.layers[0]) == 1  # what ended is dropped by the next pass
    with engine_of(one, memory=memory, chunk=16) as small:
        assert small.context < 80
        assert generated(small, prompts, samplings, limit=9) == expected


async def left_open(engine, prompts, samplings):
    replies = engine.submit(Request(prompts, samplings, 100, []))
    await replies.steps.get()
    replies.close()


def tight(engine, tokens: int) -> int:
    """The memory that holds as many tokens."""
    block, shape, chunk = engine.settings.block, engine.shape, engine.settings.chunk_on("cpu")
    return (-(-tokens // block) + RESERVED) * block * shape.bytes_per_token(chunk) + shape.fixed_bytes(chunk)


def test_seeds_matter_and_repeat(engine):
    prompt = prompts_of([20], engine.vocabulary)
    found = [generated(engine, prompt, [Sampling(temperature=1.0, seed=seed)])[0] for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_log_probabilities_are_those_of_a_forward_pass(engine):
    prompts = prompts_of([30, 50], engine.vocabulary)

    async def run():
        replies = engine.submit(Request(prompts, samplings_of(2, 1.3), 10, []))
        steps, unfinished = [], 2
        while unfinished:
            steps.append(await replies.steps.get())
            unfinished -= steps[-1].finished
        return steps

    steps = asyncio.run(run())
    for row, prompt in enumerate(prompts):
        tokens = [token for step in steps if step.reply == row for token in step.tokens]
        scored = [one for step in steps if step.reply == row for one in step.scored]
        plain = engine.log_probs(prompt, tokens)
        assert [one.logprob for one in scored] == pytest.approx(plain, abs=1e-4)
        assert all(len(one.top) == 2 and one.top[0][1] >= one.top[1][1] >= 0 - 20 for one in scored)
        assert all(one.logprob <= one.top[0][1] for one in scored)


def test_closing_frees_blocks_and_places(engine):
    async def run():
        replies = engine.submit(Request(prompts_of([40] * 16, engine.vocabulary), samplings_of(16, 1.0), 200, []))
        await replies.steps.get()
        assert engine.figures().running > 0 and engine.figures().held > 0
        replies.close()
        replies.close()

    with slowed(engine):
        asyncio.run(run())
        assert settled(engine, 1.5)  # 200 tokens take 4 s


def test_all_replies_of_a_request_or_none(engine):
    async def run():
        prompts = prompts_of([8] * 33, engine.vocabulary)
        with pytest.raises(QueueFull, match="room for 32 more replies, the request asks for 33"):
            engine.submit(Request(prompts, samplings_of(33, 1.0), 5, []))
        assert not engine.outstanding
        first = engine.submit(Request(prompts[:30], samplings_of(30, 1.0), 100, []))
        with pytest.raises(QueueFull, match="room for 2 more"):
            engine.submit(Request(prompts[:3], samplings_of(3, 1.0), 5, []))
        first.close()

    asyncio.run(run())
    assert settled(engine)


def test_short_prompts_share_blocks(served):
    prompt = prompts_of([5, 5], 200, shared=36)
    with engine_of(served) as fresh:
        first = generated(fresh, prompt[:1], [Sampling()])
        assert fresh.figures().shared == 0 and fresh.figures().kept > 0
        generated(fresh, prompt[1:], [Sampling()])
        assert fresh.figures().shared == 32  # two blocks of 16
        assert generated(fresh, prompt[:1], [Sampling()]) == first
    with engine_of(served, share_prefixes=False) as fresh:
        generated(fresh, prompt[:1], [Sampling()])
        generated(fresh, prompt[1:], [Sampling()])
        assert fresh.figures().shared == 0


def test_the_cache_stays_within_its_memory(served):
    def of(memory):
        return Engine(served, EngineSettings(memory=memory, streams=16))

    for memory in (2**19, 2**20, 2**21):
        assert 0.4 * memory < of(memory).cache_bytes() <= memory
    large = of(2**34)  # no more than the places can use
    assert large.cache_bytes() < 2**24 and large.context == CONTEXT and not large.limited_by_memory
    small = of(tight(large, 100))
    assert small.context == 112 and small.limited_by_memory
    with pytest.raises(UserError, match=r"(?s)memory for the cache is too small.*fix: +--memory \d+K or more"):
        of(1000)


@pytest.mark.parametrize(
    "family",
    ["sinks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("conv", "gpt3", "sliding", "moe", "gpt1"))],
)
def test_architectures_that_are_served(tmp_path, family):
    one = load_models(read_names([str(save_gpt(tmp_path / family, family))]), "cpu")[0]
    prompts = prompts_of([20, 40], 200)
    with torch.no_grad():
        expected = [
            one.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=10, eos_token_id=4)
            for prompt in prompts
        ]
        expected = [ids[0, len(prompt) :].tolist() for ids, prompt in zip(expected, prompts, strict=True)]
    with engine_of(one) as engine:
        require_agreement(engine)
        assert generated(engine, prompts, [Sampling()] * 2, limit=10, ends=[4]) == expected
        assert len(engine.log_probs(prompts[0], expected[0])) == 10


def test_an_architecture_that_is_refused(tmp_path):
    one = load_models(read_names([str(save_gpt(tmp_path / "softcap", "softcap"))]), "cpu")[0]
    refused = pytest.raises(UserError, match=r"(?s)softcap cannot be served.*attn_logit_softcapping.*align chat")
    with refused, engine_of(one) as engine:
        require_agreement(engine)


def test_an_engine_that_computes_something_else_is_refused(served):
    """As paged attention would that leaves out a part of the model."""
    with engine_of(served) as engine:
        require_agreement(engine)
        engine.log_probs = lambda prompt, reply: [-1.0] * len(reply)
        with pytest.raises(UserError, match="log-probabilities that differ by"):
            require_agreement(engine)


def test_a_short_prompt_overtakes_a_long_one_and_running_replies_go_on(served):
    async def run(engine):
        prompts = prompts_of([4, 200, 200, 200, 8], engine.vocabulary)
        running = engine.submit(Request(prompts[:1], [Sampling()], 200, []))
        for _ in range(4):
            await running.steps.get()
        long = engine.submit(Request(prompts[1:4], [Sampling()] * 3, 1, []))
        short = engine.submit(Request(prompts[4:], [Sampling()], 1, []))
        await short.steps.get()
        before, meanwhile = long.steps.qsize(), running.steps.qsize()
        for _ in range(3):
            await long.steps.get()
        after = running.steps.qsize()
        running.close()
        return before, meanwhile, after

    with engine_of(served, chunk=32, share_prefixes=False) as engine:
        before, meanwhile, after = asyncio.run(run(engine))
        assert before == 0  # no long prompt was read before the short one
        assert meanwhile <= 4 and after >= 600 // 32 - 2  # a token for every chunk


def test_prompts_are_due_by_arrival_and_length():
    from transformers.generation.continuous_batching.requests import RequestState

    early, late = (RequestState("r", [5] * count, created_time=at) for count, at in ((1000, 10.0), (10, 10.9)))
    later = RequestState("r", [5] * 10, created_time=11.5)
    assert sorted([later, early, late], key=due) == [late, early, later]
