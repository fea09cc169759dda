"""The pages on a server of tiny engines in a thread of this process."""

import random
import threading
from contextlib import contextmanager

from served_tiny import HOST

from alignment.serving.api.app_factory import make_app
from alignment.serving.api.http_server import HttpServer, bound_socket
from alignment.serving.web.blind_comparisons import Comparisons
from alignment.serving.web.votes_file import VotesFile
from alignment.serving.web.web_requests import Settings
from alignment.serving.web.web_routes import Web, add_web


@contextmanager
def web_of(engines, votes, *, seed=0, guard=None, items=lambda: None):
    """The address of a server with the pages, and what its routes share."""
    listening, ready = bound_socket(HOST, 0), threading.Event()
    app = make_app(engines, guard)
    defaults = Settings(temperature=0.7, max_tokens=24)
    web = Web(
        app.state.offered, app.state.metrics, VotesFile(votes), defaults, Comparisons(random.Random(seed)), items=items
    )
    add_web(app, web)
    server = HttpServer(app, [], 5.0, ready=ready.set)  # whose engines would end with it
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://{HOST}:{listening.getsockname()[1]}", web
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
