"""An endpoint per test."""

import pytest
from judge_server import KEY, Server


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()
