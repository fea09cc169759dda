"""The address of a model behind an OpenAI-compatible endpoint, and the name of its eval runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from alignment.errors import UserError, raise_all
from reward_models.judges.chat_client import read_key

ROUTES = {"plain": "/completions", "chat": "/chat/completions"}  # format -> route below the URL
EXAMPLE = "such as http://127.0.0.1:8000/v1"


@dataclass(frozen=True)
class Endpoint:
    """A model behind an endpoint.

    Attributes:
        url: the address that ends with `/v1`, without the routes.
        model: the model's name there.
        api_key_env: the environment variable that holds the key. The key itself is read for each request, and is
            neither stored nor shown.
    """

    url: str
    model: str
    api_key_env: str | None = None

    @property
    def name(self) -> str:
        """All that identifies the model from outside: `URL#MODEL`."""
        return f"{self.url}#{self.model}"

    @property
    def stage(self) -> str:
        """The first part of the names of eval runs: the model's name and the host."""
        parts = (self.model, urlsplit(self.url).netloc)
        return "@".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)

    def key(self) -> str | None:
        """The key for the header of a request; None if the endpoint takes none.

        Raises:
            UserError: the environment variable holds no key.
        """
        return read_key(self.api_key_env)

    def without_key(self, text: str) -> str:
        """A text of the server without the key, which some servers repeat in their errors."""
        key = self.key()
        return text.replace(key, "[key]") if key else text


def endpoint_of(url: str, model: str | None, api_key_env: str | None = None) -> Endpoint:
    """Return the endpoint at an address.

    Raises:
        UserError: the address is not that of an endpoint, the model's name is missing, or there is no key.
    """
    wrong = [] if model and model.strip() else [_without_model(url)]
    trimmed = url.rstrip("/")
    try:
        parts = urlsplit(trimmed)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, an unclosed bracket
        valid = False
    if not valid:
        wrong.append(UserError("--endpoint is not an HTTP address.", got=url, expected=EXAMPLE))
    elif "@" in parts.netloc or parts.query or parts.fragment:
        wrong.append(
            UserError(
                "--endpoint takes an address without a user name, password, query or fragment.",
                got=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} with one of them",
                expected=EXAMPLE,
                fix="give a key by --api_key_env NAME, where NAME is an environment variable",
            )
        )
    elif route := next((route for route in sorted(ROUTES.values(), reverse=True) if trimmed.endswith(route)), None):
        fix = f"--endpoint {trimmed.removesuffix('/chat/completions').removesuffix(route)}"
        wrong.append(UserError("--endpoint takes the address without the route.", got=url, expected=EXAMPLE, fix=fix))
    raise_all(wrong)
    endpoint = Endpoint(trimmed, str(model), api_key_env)
    endpoint.key()
    return endpoint


def _without_model(url: str) -> UserError:
    fix = f"--model NAME; {url.rstrip('/')}/models lists the names"
    return UserError("--endpoint needs the name of a model.", got="no --model", fix=fix)
