"""Clients that do what they should not: the right status each, and the server as before."""

import asyncio
import json
import signal
import socket
import threading
import time

import httpx2 as httpx
import openai
import pytest
from served_tiny import HOST, client_of, engine_of, get, held, post, save_gpt, serving, settled, slowed

from alignment.serving.api.gate import Guard
from alignment.serving.batching.served_models import load_models, read_names

CHAT = {"model": "gpt", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 4}
COMPLETION = {"model": "gpt", "prompt": "one", "max_tokens": 4}
PLACES = 32  # of streams and queue


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = save_gpt(tmp_path_factory.mktemp("models") / "gpt")
    with engine_of(load_models(read_names([str(path)]), "cpu")[0]) as engine:
        yield engine


@pytest.fixture(scope="module")
def url(engine):
    with serving([engine], Guard(most_bytes=2**16)) as running:
        yield running.url


@pytest.fixture(autouse=True)
def unharmed(request):
    """After each test of the shared server: its engine runs, and nothing is held."""
    yield
    if "url" in request.fixturenames:
        url, engine = request.getfixturevalue("url"), request.getfixturevalue("engine")
        assert get(f"{url}/health").json() == {"status": "ok", "models": {"gpt": "up"}}
        assert settled(engine)


@pytest.mark.parametrize(
    ("status", "said", "path", "options"),
    [
        (404, "there is no model 'other'; served: gpt", "/v1/chat/completions", {"json": CHAT | {"model": "other"}}),
        (404, "there is no model '/etc/passwd'", "/v1/chat/completions", {"json": CHAT | {"model": "/etc/passwd"}}),
        (404, "there is no model 'gpt2'", "/v1/completions", {"json": COMPLETION | {"model": "gpt2"}}),
        (404, "there is no model", "/v1/completions", {"json": COMPLETION | {"model": "x" * 9999}}),
        (404, "POST /v1/embeddings: Not Found", "/v1/embeddings", {"json": CHAT}),
        (404, "POST /load_model: Not Found", "/load_model", {"json": CHAT}),
        (405, "Method Not Allowed", "/health", {"json": CHAT}),
        (400, "messages: Field required", "/v1/chat/completions", {"json": COMPLETION}),
        (400, "temperature: ", "/v1/chat/completions", {"json": CHAT | {"temperature": "hot"}}),
        (400, "tools is not supported", "/v1/chat/completions", {"json": CHAT | {"tools": [{"a": 1}]}}),
        (
            400,
            "context of gpt has 256 tokens, the prompt ",
            "/v1/completions",
            {"json": COMPLETION | {"prompt": "a" * 256}},
        ),
        (400, "max_tokens=9999 leaves no room", "/v1/completions", {"json": COMPLETION | {"max_tokens": 9999}}),
        (400, "token id 99999, the vocabulary", "/v1/completions", {"json": COMPLETION | {"prompt": [5, 99999]}}),
        (400, "at most 128 replies", "/v1/completions", {"json": COMPLETION | {"prompt": ["a"] * 65, "n": 2}}),
        (400, "JSON", "/v1/completions", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (400, "JSON", "/v1/completions", {"content": b"[" * 60000, "headers": {"Content-Type": "application/json"}}),
        (413, "larger than 65536 bytes", "/v1/completions", {"json": COMPLETION | {"prompt": "a" * 10_000_000}}),
        (415, "must be JSON", "/v1/completions", {"content": json.dumps(COMPLETION)}),
        (415, "must be JSON", "/v1/completions", {"data": {"model": "gpt"}}),
        (403, "other sites", "/v1/completions", {"json": COMPLETION, "headers": {"Origin": "http://evil.example"}}),
        (403, "other sites", "/v1/completions", {"json": COMPLETION, "headers": {"Origin": "null"}}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_statuses(url, engine, status, said, path, options):
    response = post(url, path, **options)
    error = response.json()["error"]
    assert (response.status_code, said in error["message"]) == (status, True), response.text
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_another_sites_host_header_is_refused(url, engine, host):
    assert post(url, json=CHAT, headers={"Host": host}).status_code == 400
    assert get(f"{url}/v1/models", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "LOCALHOST:80", "[::1]:8000"])
def test_names_of_this_machine_are_accepted(url, engine, host):
    assert get(f"{url}/v1/models", headers={"Host": host}).status_code == 200
    origin = {"Origin": f"http://{host}"}
    assert get(f"{url}/v1/models", headers=origin).status_code == 200


def raw_request(url: str, body: dict, path: str = "/v1/chat/completions", buffer: int | None = None) -> socket.socket:
    """A connection on which a request was sent."""
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect((HOST, int(url.rpartition(":")[2])))
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_free_their_places(url, engine, stream):
    body = CHAT | {"max_tokens": 200, "stream": stream}
    with slowed(engine):
        for _ in range(3):
            left = [raw_request(url, body) for _ in range(8)]
            if stream:
                for one in left:
                    one.recv(200)
            else:
                time.sleep(0.1)
            for one in left:
                one.close()
        assert settled(engine, 2.0)  # 200 tokens take 4 s


def test_a_body_that_never_ends_or_is_longer_than_announced(url, engine, monkeypatch):
    monkeypatch.setattr("alignment.serving.api.gate.SECONDS", 0.2)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((HOST, int(url.rpartition(":")[2]))) as slow:
        slow.sendall(head + b"Content-Length: 5000\r\n\r\n{")
        assert slow.recv(2000).startswith(b"HTTP/1.1 408")
    with socket.create_connection((HOST, int(url.rpartition(":")[2]))) as endless:
        endless.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + 20 * (b"1000\r\n" + b"x" * 4096 + b"\r\n"))
        assert endless.recv(2000).startswith(b"HTTP/1.1 413")


def test_a_slow_reader_holds_no_blocks_and_delays_nobody(url, engine):
    body = CHAT | {"max_tokens": 100, "stream": True, "logprobs": True, "top_logprobs": 20}
    slow = [raw_request(url, body, buffer=2048) for _ in range(2)]
    started = time.monotonic()
    assert post(url, json=CHAT).status_code == 200 and time.monotonic() - started < 5
    assert settled(engine)  # their replies are complete, though nobody has read them
    for one in slow:
        one.settimeout(10)
        read = b""
        while b"[DONE]" not in read[-100:]:
            read += one.recv(2**16)
        one.close()


def test_more_requests_than_places(url, engine):
    body = CHAT | {"max_tokens": 12}

    async def run(release):
        async with httpx.AsyncClient(verify=False, timeout=60, limits=httpx.Limits(max_connections=200)) as flood:
            url_of_chat = f"{url}/v1/chat/completions"
            asks = [asyncio.create_task(flood.post(url_of_chat, json=body)) for _ in range(PLACES + 64)]
            while sum(one.done() for one in asks) < 64:  # while the others hold their places
                await asyncio.sleep(0)
            async with client_of(url) as client:
                with pytest.raises(openai.RateLimitError) as caught:
                    await client.chat.completions.create(**body)
            release()
            return await asyncio.gather(*asks), caught.value

    with held(engine) as release:
        found, refusal = asyncio.run(run(release))
    statuses = [one.status_code for one in found]
    assert (statuses.count(200), statuses.count(429)) == (PLACES, 64)
    assert refusal.response.headers["retry-after"] == "1" and refusal.code == "queue_full"
    assert post(url, json=CHAT).status_code == 200


def test_a_key_is_required_where_it_is_set(engine):
    with serving([engine], Guard(api_key="s3cret")) as running:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic s3cret"},
            {"Authorization": "Bearer"},
        ):
            response = post(running.url, json=CHAT, headers=headers)
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
            assert get(f"{running.url}/metrics", headers=headers).status_code == 401
        accepted = {"Authorization": "Bearer s3cret"}
        assert post(running.url, json=CHAT, headers=accepted).status_code == 200
        assert get(f"{running.url}/health").status_code == 200


def test_an_engine_that_died_is_reported(engine):
    with engine_of(engine.served) as dying, serving([dying]) as running:
        stream = raw_request(running.url, CHAT | {"max_tokens": 200, "stream": True})
        stream.recv(200)
        dying.manager._generation_step = lambda: 1 / 0
        read = b""
        stream.settimeout(10)
        while b"engine_failed" not in read:
            read += stream.recv(2**16)
        stream.close()
        assert get(f"{running.url}/health").status_code == 503
        response = post(running.url, json=CHAT)
        assert response.status_code == 503 and response.json()["error"]["code"] == "engine_down"
        assert 'align_engine_up{model="gpt"} 0.0' in get(f"{running.url}/metrics").text


@pytest.mark.parametrize(("grace", "complete"), [(20.0, True), (0.0, False)])
def test_sigterm_gives_streams_the_grace_period(engine, grace, complete):
    """A stream that is open at the signal ends with [DONE], or with an error event once the time is up."""
    with engine_of(engine.served) as ending, slowed(ending), serving([ending], grace=grace) as running:
        stream = raw_request(running.url, CHAT | {"max_tokens": 20 if complete else 220, "stream": True})
        read = stream.recv(200)
        running.server.handle_exit(signal.SIGTERM, None)
        stream.settimeout(10)
        while part := stream.recv(2**16):
            read += part
        assert (b"data: [DONE]" in read, b"engine_failed" in read) == (complete, not complete)
        running.thread.join(10)
        assert not running.thread.is_alive() and not ending.is_alive()
        with pytest.raises(httpx.ConnectError):
            post(running.url, json=CHAT)
    assert not [one for one in threading.enumerate() if one.name.startswith("_run_generation")]
