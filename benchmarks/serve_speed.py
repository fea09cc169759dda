"""How fast is `align serve`: many streams against one after another, and streams while long prompts arrive?

"throughput": 16 requests of 20 prompt tokens and 64 new ones, sampled with a seed each, through OpenAI's client to a
server in a process of its own: all at once, and one after another, interleaved; the texts must be equal.
"first token": from sending a request to its first token, in the same runs.

"long prompts": 8 streams run, and 4 prompts of 900 tokens arrive; the gaps between the tokens of a stream, and the time
to the first token of a short request that arrives just after them. The engine reads prompts in chunks of 128 tokens;
"unchunked" reads each in a single pass. Without HTTP.

Random weights: "demo" has the shape of recipes/tiny (1M parameters, with convolutions), "30M" is a GPT of 8 layers x
512. float32, one thread.

    python benchmarks/serve_speed.py [--quick]

Seed 0, two cores of an Intel Xeon that trained models at the time, 2026-11-30, medians of 3:

                                            demo    30M
    tokens/s, 16 at once                     241    108
    tokens/s, one after another               51     20
    first token at once, alone, ms       280, 64   309, 76
    largest gap, ms: no long prompt           72    157
                     chunks                   92    535
                     unchunked               372  3,052
    first token behind long prompts, ms: no   22    143
                     chunks                   56    271
                     unchunked               223  1,981
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = 1024
SIZES: dict[str, dict[str, Any]] = {
    "demo": {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "norm_type": "layernorm", "qk_norm": True, "qkv_conv_size": 4, "vocab_size": 2048,
    },
    "30M": {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 8192,
    },
}  # fmt: skip
STREAMS, PROMPT, TOKENS = 16, 20, 64
RUNNING, LONG, LONG_PROMPTS = 8, 900, 4
ROWS = (("no long prompt", None, False), ("chunks", None, True), ("unchunked", CONTEXT, True))
LEAST_RATIO = 2.0  # of throughput at 16 streams to that of one after another


def save_model(folder: Path, sizes: dict[str, Any]) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import TokenizersBackend

    from alignment.models.gpt import GPTConfig, GPTForCausalLM

    words = ["<pad>", "<eos>", *(f"w{number}" for number in range(sizes["vocab_size"] - 2))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    TokenizersBackend(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    config = GPTConfig(**sizes, **ids, max_position_embeddings=CONTEXT, tie_word_embeddings=True)
    GPTForCausalLM(config).save_pretrained(folder)


def prompts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    import torch

    draw = torch.Generator().manual_seed(seed)
    return torch.randint(2, 2000, (count, length), generator=draw).tolist()


# ---- Through the server ----


async def ask(client: Any, index: int, prompt: list[int], tokens: int) -> tuple[str, float]:
    """Return the text of a streamed reply, and the seconds to its first part."""
    started, first, text = time.perf_counter(), 0.0, ""
    settings = {"max_tokens": tokens, "temperature": 1.0, "seed": index, "stream": True}
    async for part in await client.completions.create(model="model", prompt=prompt, **settings):
        first = first or time.perf_counter() - started
        text += part.choices[0].text
    return text, first


async def through_server(url: str, tokens: int, repetitions: int) -> dict[str, dict[str, list[float]]]:
    """Return seconds and first-token times of both ways."""
    import openai

    found: dict[str, dict[str, list[float]]] = {way: {"seconds": [], "first": []} for way in ("at once", "alone")}
    asked = prompts(STREAMS, PROMPT)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        await ask(client, 0, asked[0], 4)  # the first call sets up what later ones have
        for _ in range(repetitions):
            texts = {}
            for way in found:
                started = time.perf_counter()
                calls = [ask(client, index, prompt, tokens) for index, prompt in enumerate(asked)]
                replies = await asyncio.gather(*calls) if way == "at once" else [await call for call in calls]
                found[way]["seconds"].append(time.perf_counter() - started)
                found[way]["first"] += [first for _, first in replies]
                texts[way] = [text for text, _ in replies]
            if texts["at once"] != texts["alone"]:
                raise RuntimeError("the texts differ between the two ways")
    return found


def throughput(folder: Path, tokens: int, repetitions: int) -> dict[str, Any]:
    """Return the figures of a server in a process of its own."""
    command = [sys.executable, str(ROOT / "align.py"), "serve", f"model={folder}", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            lines = iter(server.stdout or ())
            url = next(line.split(" at ")[1].split()[0] for line in lines if line.startswith("serving "))
            found = asyncio.run(through_server(url, tokens, repetitions))
        finally:
            server.terminate()
    rates = {way: STREAMS * tokens / statistics.median(one["seconds"]) for way, one in found.items()}
    return {
        "tokens/s at once": round(rates["at once"]),
        "tokens/s alone": round(rates["alone"]),
        "ratio": round(rates["at once"] / rates["alone"], 2),
        "first token at once, ms": round(1000 * statistics.median(found["at once"]["first"])),
        "first token alone, ms": round(1000 * statistics.median(found["alone"]["first"])),
    }


# ---- Long prompts, without HTTP ----


async def gaps_and_first(engine: Any, tokens: int, long: bool) -> tuple[list[float], float]:
    """Return the gaps between tokens of the running streams, and the time to a short request's first token."""
    from alignment.serving.batching.keyed_sampling import Sampling
    from alignment.serving.batching.pending_replies import Request

    def submit(some: list[list[int]], limit: int) -> Any:
        return engine.submit(Request(some, [Sampling(temperature=1.0, seed=i) for i in range(len(some))], limit, []))

    running = submit(prompts(RUNNING, PROMPT), tokens)
    for _ in range(RUNNING * 8):
        await running.steps.get()
    arriving = [submit(prompts(LONG_PROMPTS, LONG, seed=7), 4)] if long else []
    started = time.perf_counter()
    short = submit(prompts(1, PROMPT, seed=9), 4)

    async def first() -> float:
        await short.steps.get()
        return time.perf_counter() - started

    async def gaps() -> list[float]:
        last, found, unfinished = dict.fromkeys(range(RUNNING), time.perf_counter()), [], RUNNING
        while unfinished:
            step = await running.steps.get()
            now = time.perf_counter()
            found.append(now - last[step.reply])
            last[step.reply] = now
            unfinished -= step.finished
        return found

    found, seconds = await asyncio.gather(gaps(), first())
    for replies in (running, short, *arriving):
        replies.close()
    return found, seconds


def long_prompts(folder: Path, tokens: int, repetitions: int) -> dict[str, Any]:
    """Return gaps and first-token times without long prompts, with them, and with them read in a single pass."""
    from alignment.serving.batching.engine import Engine
    from alignment.serving.batching.engine_settings import EngineSettings
    from alignment.serving.batching.served_models import Named, load_models

    (served,) = load_models([Named("model", str(folder))], "cpu")
    figures: dict[str, Any] = {}
    for row, chunk, long in ROWS:
        engine = Engine(served, EngineSettings(chunk=chunk, share_prefixes=False))
        engine.start()
        try:
            measured = [asyncio.run(gaps_and_first(engine, tokens, long)) for _ in range(repetitions)]
        finally:
            engine.stop()
        every = sorted(gap for gaps, _ in measured for gap in gaps)
        figures[row] = {
            "gap median, ms": round(1000 * statistics.median(every), 1),
            "gap largest, ms": round(1000 * statistics.median(max(gaps) for gaps, _ in measured), 1),
            "first token, ms": round(1000 * statistics.median(seconds for _, seconds in measured), 1),
        }
    return figures


def table(title: str, figures: dict[str, Any]) -> None:
    print(title)
    for name, value in figures.items():
        print(
            f"    {name:28}{value if not isinstance(value, dict) else '  '.join(f'{k} {v}' for k, v in value.items())}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the demo's model, few tokens, one repetition")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    tokens, repetitions = (12, 1) if args.quick else (TOKENS, 3)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for size in list(SIZES)[: 1 if args.quick else None]:
            folder = Path(place) / size
            save_model(folder, SIZES[size])
            figures[size] = throughput(folder, tokens, repetitions)
            table(f"{size}: {STREAMS} requests", figures[size])
            figures[size]["long prompts"] = long_prompts(folder, 2 * tokens, repetitions)
            table(f"{size}: long prompts", figures[size]["long prompts"])
    from alignment.pipeline.records.environment import hardware

    met = all(one["ratio"] >= LEAST_RATIO for one in figures.values())
    print(json.dumps({"figures": figures, "targets": {"ratio": LEAST_RATIO}, "met": met, "machine": hardware()}))


if __name__ == "__main__":
    main()
