"""Tiny models to serve, and a server of engines in a thread of this process."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import base_models
import httpx2 as httpx
import openai
from gpt_tiny import FAMILIES, build

from alignment.serving.api.app_factory import make_app
from alignment.serving.api.http_server import HttpServer, bound_socket
from alignment.serving.batching.engine import Engine
from alignment.serving.batching.engine_settings import EngineSettings
from alignment.serving.batching.served_models import Served
from alignment.tokenization.base import make_chat_ready

CONTEXT = 256
HOST = "127.0.0.1"


def chat_tokenizer():
    """Byte-level, with ChatML: every text has tokens, and some characters have several."""
    tokenizer = base_models.tokenizer("<pad>", "<|im_start|>", "<|im_end|>", pad_token="<pad>")
    make_chat_ready(tokenizer)
    return tokenizer


def save_gpt(folder: Path, family: str = "modern", **changes) -> Path:
    """A random GPT in float32 that ends replies at the end of a turn."""
    tokenizer = chat_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "pad_token_id": tokenizer.pad_token_id}
    model = build(FAMILIES[family], **sizes | ids | changes)
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def engine_of(served: Served, **settings):
    """A running engine with small limits."""
    engine = Engine(served, EngineSettings(**{"memory": 2**26, "streams": 16, "queue": 16} | settings))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process, and its address."""

    url: str
    server: HttpServer
    thread: threading.Thread


@contextmanager
def serving(engines, guard=None, grace=5.0):
    """A server of engines, until the end."""
    listening, ready = bound_socket(HOST, 0), threading.Event()
    server = HttpServer(make_app(engines, guard), engines, grace, ready=ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield Running(f"http://{HOST}:{listening.getsockname()[1]}", server, thread)
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


# Certificates are not read: there is no TLS on loopback, and each client would read them.
def client_of(url: str) -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(verify=False)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60, http_client=http)


def get(url: str, **options) -> httpx.Response:
    return httpx.get(url, timeout=60, verify=False, **options)


def post(url: str, path: str = "/v1/chat/completions", **options) -> httpx.Response:
    return httpx.post(url + path, timeout=60, verify=False, **options)


@contextmanager
def slowed(engine: Engine, seconds: float = 0.02):
    """The engine with a pause before each step, so that what should end early does not just end."""
    step = engine.manager._generation_step

    def slow_step() -> None:
        time.sleep(seconds)
        step()

    engine.manager._generation_step = slow_step
    try:
        yield
    finally:
        engine.manager._generation_step = step


@contextmanager
def held(engine: Engine):
    """The engine before its next step, until the function that this gives is called."""
    step, go_on = engine.manager._generation_step, threading.Event()

    def later_step() -> None:
        go_on.wait(30)
        step()

    engine.manager._generation_step = later_step
    try:
        yield go_on.set
    finally:
        go_on.set()
        engine.manager._generation_step = step


def settled(engine: Engine, seconds: float = 5.0) -> bool:
    """Whether an engine comes to rest: nothing runs, waits, or holds a block."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = engine.figures()
        if not (now.running or now.waiting or now.held or engine.deliveries.open or engine.sampling.scored):
            return True
        time.sleep(0.02)
    return False


def served_llama(folder: Path) -> Path:
    """A Llama of transformers', with the same tokenizer."""
    tokenizer = chat_tokenizer()
    base_models.llama(folder, 0, False, "<pad>", "<|im_start|>", "<|im_end|>", max_position_embeddings=CONTEXT)
    tokenizer.save_pretrained(folder)
    return folder
