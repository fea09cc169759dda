"""`align serve`: refusals before anything is loaded, and a server in a process of its own."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import pytest
from align_cli import ENVIRONMENT, REPOSITORY
from served_tiny import post, save_gpt

import align
from alignment.cli.share import serve
from alignment.serving.batching.cache_budget import in_units, read_memory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_gpt(tmp_path_factory.mktemp("run") / "sft/checkpoint")


def refusal(capsys, *arguments) -> str:
    assert align.main(["serve", *map(str, arguments)]) == align.USER_ERROR
    return capsys.readouterr().err


def test_what_is_refused_before_anything_is_loaded(capsys, checkpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_API_KEY", raising=False)
    assert "no checkpoint at" in refusal(capsys, tmp_path / "nowhere")
    assert "several models are called sft" in refusal(capsys, checkpoint, checkpoint)
    assert "--memory names no amount" in refusal(capsys, checkpoint, "--memory", "half")
    assert "--streams is too small" in refusal(capsys, checkpoint, "--streams", "0")
    assert "--queue is too small" in refusal(capsys, checkpoint, "--queue", "-1")
    assert "--grace is too small" in refusal(capsys, checkpoint, "--grace", "nan")
    assert "--api_key is empty" in refusal(capsys, checkpoint, "--api_key", " ")
    everywhere = refusal(capsys, checkpoint, "--host", "0.0.0.0")
    assert "needs a key" in everywhere and "--allowed_host" in everywhere
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = refusal(capsys, checkpoint, "--port", taken.getsockname()[1])
    assert "cannot listen on 127.0.0.1" in message and "--port 0" in message
    assert "cannot listen on" in refusal(capsys, checkpoint, "--port", "99999")


def test_a_missing_extra_is_named(capsys, checkpoint, monkeypatch):
    monkeypatch.setattr(serve, "NEEDED", ("fastapi", "no_such_package"))
    message = refusal(capsys, checkpoint)
    assert "no no_such_package" in message and "pip install 'alignment-pipeline[serve]'" in message


def test_a_model_that_cannot_be_served_ends_the_command(capsys, tmp_path):
    message = refusal(capsys, save_gpt(tmp_path / "softcap", "softcap"), "--port", "0")
    assert "softcap cannot be served" in message and "attn_logit_softcapping" in message
    assert "the memory for the cache is too small" in refusal(
        capsys, save_gpt(tmp_path / "gpt"), "--port", "0", "--memory", "10K"
    )


@pytest.mark.parametrize(
    ("text", "amount"), [("512M", 2**29), ("2G", 2**31), ("1.5GB", 3 * 2**29), ("1GiB", 2**30), ("4096", 4096)]
)
def test_amounts_of_memory(text, amount):
    assert read_memory(text) == amount
    assert read_memory(in_units(amount)) >= amount


@pytest.mark.slow
@pytest.mark.parametrize(("grace", "done"), [(30, True), (0, False)])
def test_a_process_serves_until_sigterm(checkpoint, grace, done):
    """A stream that is open at the signal is served to its end, or ends with an error after the grace period."""
    import os

    command = [sys.executable, "align.py", "serve", f"tiny={checkpoint}", "--port", "0", "--grace", str(grace)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert re.match(r"tiny: .*context 256; cache \d+M$", lines[0]), lines
        url = re.fullmatch(r"serving tiny at (http://127.0.0.1:\d+)/v1 \(Ctrl-C ends it\)\n", lines[1])[1]
        body = {"model": "tiny", "messages": [{"role": "user", "content": "one"}], "max_tokens": 200}
        assert post(url, json=body | {"max_tokens": 3}).status_code == 200
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=60) as stream:
            events = stream.iter_lines()
            next(events)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            with pytest.raises(httpx.TransportError):
                post(url, json=body)
            rest = list(events)
        assert ("data: [DONE]" in rest, any("engine_failed" in line for line in rest)) == (done, not done)
        assert process.wait(30) == align.SIGNALLED + signal.SIGTERM
        assert process.stderr.read().strip().endswith("align serve: interrupted")
    finally:
        process.kill()
