"""A server under ten thousand requests of all kinds, and clients that leave: memory and blocks as at the start."""

import asyncio
import gc
import random

import httpx2 as httpx
import psutil
import pytest
from served_tiny import engine_of, post, save_gpt, serving, settled

from alignment.serving.batching.served_models import load_models, read_names

REQUESTS, AT_ONCE = 10_000, 24
MOST_GROWTH = 64 * 2**20  # bytes, of all the process has


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = [str(save_gpt(folder / name, name)) for name in ("modern", "conv")]
    return load_models(read_names(paths), "cpu")


def body(draw: random.Random) -> tuple[str, dict, int]:
    """A request, and the status that it should have."""
    model = draw.choice(["modern", "conv"])
    words = " ".join(draw.choice(["one", "two", "three", "red"]) for _ in range(draw.randint(1, 20)))
    settings = {
        "temperature": draw.choice([0, 0.7, 1.5]),
        "max_tokens": draw.randint(1, 12),
        "seed": draw.randint(0, 99),
    }
    settings |= draw.choice([{}, {"stop": "e"}, {"n": 2}, {"top_p": 0.5, "top_k": 9}, {"stream": True}])
    wrong = draw.random()
    if wrong < 0.05:
        return "/v1/chat/completions", {"model": "none", "messages": [{"role": "user", "content": words}]}, 404
    if wrong < 0.1:
        return "/v1/completions", {"model": model, "prompt": words + " a" * 300} | settings, 400
    if draw.random() < 0.5:
        logprobs = draw.choice([{}, {"logprobs": True, "top_logprobs": 3}])
        chat = {"model": model, "messages": [{"role": "user", "content": words}]}
        return "/v1/chat/completions", chat | settings | logprobs, 200
    return "/v1/completions", {"model": model, "prompt": words} | settings | draw.choice([{}, {"logprobs": 2}]), 200


@pytest.mark.slow
def test_ten_thousand_requests(served):
    with engine_of(served[0], memory=2**20) as first, engine_of(served[1], memory=2**20) as second:
        with serving([first, second]) as running:
            found = asyncio.run(soak(running.url, REQUESTS // 5, seed=0))
            assert settled(first) and settled(second)
            gc.collect()
            before = psutil.Process().memory_info().rss
            found += asyncio.run(soak(running.url, REQUESTS - REQUESTS // 5, seed=1))
            assert settled(first) and settled(second)
            gc.collect()
            growth = psutil.Process().memory_info().rss - before
        assert len(found) == REQUESTS and set(found) <= {"as expected", "queue full", "left"}
        assert found.count("as expected") > 0.8 * REQUESTS and found.count("left") > 100
        assert growth < MOST_GROWTH, f"{growth / 2**20:.0f} MiB"
        for engine in (first, second):
            assert not (engine.outstanding or engine.deliveries.open or engine.sampling.scored)
            assert engine.deliveries.output_queue.empty()


async def soak(url: str, count: int, seed: int) -> list[str]:
    """What happened to each request; one of forty clients leaves in the middle."""
    draw, places = random.Random(seed), asyncio.Semaphore(AT_ONCE)

    async def one(client: httpx.AsyncClient, leaves: bool, path: str, content: dict, status: int) -> str:
        async with places:
            if leaves:
                try:
                    await asyncio.wait_for(client.post(url + path, json=content | {"max_tokens": 100}), 0.02)
                except TimeoutError:
                    return "left"
                return "as expected"
            response = await client.post(url + path, json=content)
            if response.status_code == 429:
                return "queue full"
            return "as expected" if response.status_code == status else f"{response.status_code}: {response.text[:200]}"

    async with httpx.AsyncClient(timeout=120) as client:
        asks = [one(client, draw.random() < 0.025, *body(draw)) for _ in range(count)]
        return await asyncio.gather(*asks)


@pytest.mark.slow
def test_two_hundred_clients_that_leave(served):
    async def run(url):
        async with httpx.AsyncClient(timeout=60) as client:
            for _ in range(200):
                content = {"model": "modern", "prompt": "one two", "max_tokens": 150, "stream": True}
                async with client.stream("POST", f"{url}/v1/completions", json=content) as stream:
                    async for _ in stream.aiter_lines():
                        break

    with engine_of(served[0]) as engine, serving([engine]) as running:
        asyncio.run(run(running.url))
        assert settled(engine)
        assert post(running.url, "/v1/completions", json={"model": "modern", "prompt": "one"}).status_code == 200
