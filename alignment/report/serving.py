"""Serve a report's files on this machine's loopback address, and open the page in a browser."""

import os
import sys
import webbrowser
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json"}
LOOPBACK = "127.0.0.1"


class OnlyThese(BaseHTTPRequestHandler):
    """Serves some files by their names, and the first of them as the root; nothing else."""

    def __init__(self, *args: Any, files: list[Path], **kwargs: Any):
        self.files = {path.name: path for path in files} | {"": files[0]}
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        path = self.files.get(unquote(urlsplit(self.path).path).removeprefix("/"))
        # A page elsewhere could name an address that its own name server points to this machine.
        local = (self.headers.get("Host") or "").partition(":")[0] in (LOOPBACK, "localhost")
        if path is None or not local or not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES[path.suffix])
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print no line per request."""


def make_server(files: list[Path]) -> ThreadingHTTPServer:
    """A server of these files on a free port of the loopback address, not yet running."""
    return ThreadingHTTPServer((LOOPBACK, 0), partial(OnlyThese, files=files))


def address(server: ThreadingHTTPServer) -> str:
    """The address of the server's first file."""
    return f"http://{LOOPBACK}:{server.server_address[1]}/"


def has_display() -> bool:
    """Whether a browser can show a window here: always on macOS and Windows, elsewhere with a display."""
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return sys.platform in ("darwin", "win32") or shown


def serve(files: list[Path]) -> None:
    """Serve files until Ctrl-C, and open the first in a browser if there is a display."""
    with make_server(files) as server:
        url = address(server)
        opened = has_display() and webbrowser.open(url)
        hint = "" if opened else " (no browser was opened: open the address yourself)"
        print(f"\nserving {files[0]} at {url}{hint}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
