"""The pages' files, read once at the start: what a client asks for is looked up by name, never as a path."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from starlette.responses import Response

PAGES = {"/": "chat.html", "/results": "results.html", "/items": "items.html"}
FILES = ("style.css", "shared.js", "chat.js", "replies.js", "results.js", "items.js")
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
HEADERS = {
    # Everything comes from this server; no inline scripts, no frames, no forms that leave the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the pages."""

    content: bytes
    media_type: str

    async def respond(self) -> Response:
        """Return the file."""
        return Response(self.content, media_type=self.media_type, headers=HEADERS)


def page_files() -> dict[str, PageFile]:
    """Return the pages and their files by URL path."""
    names = PAGES | {f"/web/{name}": name for name in FILES}
    folder = files("alignment.serving.web") / "pages"
    return {
        path: PageFile((folder / name).read_bytes(), TYPES[name.rpartition(".")[2]]) for path, name in names.items()
    }
