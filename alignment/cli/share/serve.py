"""`align serve CKPT [NAME=CKPT ...]`: serve checkpoints behind an OpenAI-compatible API."""

import argparse
import os
from typing import TYPE_CHECKING

from alignment.errors import UserError, raise_all

if TYPE_CHECKING:
    from alignment.serving.api.gate import Guard
    from alignment.serving.batching.engine import Engine
    from alignment.serving.batching.engine_settings import EngineSettings

KEY = "ALIGN_API_KEY"
NEEDED = ("fastapi", "uvicorn", "prometheus_client")
EVERYWHERE = ("0.0.0.0", "::")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="[NAME=]CKPT",
        help="a checkpoint folder (full model or adapter) or hub id, and the name that clients use for it (default: "
        "the folder's, or that of the folder above `checkpoint`); a base that several need is held once",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free port (default: 8000)")
    parser.add_argument(
        "--api_key",
        metavar="KEY",
        help=f"key that clients must send; better set as {KEY} in the environment, where other users do not see it",
    )
    parser.add_argument(
        "--allowed_host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of this server that clients use in its URL; may be given several times",
    )
    parser.add_argument(
        "--memory",
        default="1G",
        help="memory for keys and values, shared among all models: 512M, 8G (default: 1G; less is taken if the "
        "models cannot use it)",
    )
    parser.add_argument("--streams", type=int, default=64, help="replies generated at once, per model (default: 64)")
    parser.add_argument(
        "--queue", type=int, default=64, help="replies that wait for a place, per model; more get 429 (default: 64)"
    )
    parser.add_argument(
        "--grace", type=float, default=10.0, help="seconds for running replies after SIGTERM or Ctrl-C (default: 10)"
    )


def main(args: argparse.Namespace) -> int:
    require_extra()
    guard = guard_of(args)
    settings = settings_of(args, len(args.checkpoints))

    from alignment.serving.api.app_factory import make_app
    from alignment.serving.api.http_server import HttpServer, bound_socket
    from alignment.serving.batching.served_models import read_names

    named = read_names(args.checkpoints)
    listening = bound_socket(args.host, args.port)
    engines: list[Engine] = []
    try:
        start_engines(named, settings, engines)
        app = make_app(engines, guard)
        url = f"http://{args.host}:{listening.getsockname()[1]}/v1"
        server = HttpServer(app, engines, args.grace, ready=lambda: print_ready(engines, url))
        server.run(sockets=[listening])
    finally:
        for engine in engines:
            engine.stop()
        listening.close()
    return 0


def require_extra() -> None:
    """Raise if a package of the extra `serve` is missing."""
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            "align serve needs packages that are not installed",
            got=f"no {', '.join(missing)}",
            fix="pip install 'alignment-pipeline[serve]'",
        )


def guard_of(args: argparse.Namespace) -> "Guard":
    """Return who may use the server; one that other machines reach needs a key, and the name that they use."""
    from alignment.serving.api.gate import LOOPBACK, Guard

    key = args.api_key if args.api_key is not None else os.environ.get(KEY) or None
    errors = []
    if args.host not in LOOPBACK and not key:
        errors.append(
            UserError(
                "a server that other machines reach needs a key",
                got=f"--host {args.host} without --api_key",
                fix=f"set {KEY} in the environment, or listen on 127.0.0.1",
            )
        )
    if args.host in EVERYWHERE and not args.allowed_host:
        errors.append(
            UserError(
                "the server does not know the name that clients use for it",
                got=f"--host {args.host}",
                expected="--allowed_host with the name or address in the clients' URL",
                fix=f"--allowed_host {os.uname().nodename}",
            )
        )
    if key is not None and not key.strip():
        errors.append(UserError("--api_key is empty", fix="give a key, or omit the option"))
    raise_all(errors)
    return Guard(hosts=[*LOOPBACK, args.host, *args.allowed_host], api_key=key)


def settings_of(args: argparse.Namespace, models: int) -> "EngineSettings":
    """Return the limits of each engine."""
    from alignment.serving.batching.cache_budget import read_memory
    from alignment.serving.batching.engine_settings import EngineSettings

    limits = {"--streams": (args.streams, 1), "--queue": (args.queue, 0), "--grace": (args.grace, 0)}
    raise_all(
        [
            UserError(f"{name} is too small", got=value, expected=f"{least} or more")
            for name, (value, least) in limits.items()
            if not value >= least
        ]
    )
    return EngineSettings(memory=read_memory(args.memory) // models, streams=args.streams, queue=args.queue)


def start_engines(named: list, settings: "EngineSettings", engines: "list[Engine]") -> None:
    """Load the models and start their engines, each after a check that it computes what the model computes.

    Args:
        engines: where they are put as soon as they run, so that the caller can stop them.
    """
    import gc

    import torch

    from alignment.serving.batching.engine import Engine
    from alignment.serving.batching.engine_check import require_agreement
    from alignment.serving.batching.served_models import load_models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for served in load_models(named, device):
        engine = Engine(served, settings)
        engines.append(engine)
        engine.start()
        require_agreement(engine)
    # What is loaded stays: without it, collections of garbage pause the replies only briefly.
    gc.collect()
    gc.freeze()


def print_ready(engines: "list[Engine]", url: str) -> None:
    """Print the models and the address."""
    from alignment.models.generation import own_settings
    from alignment.serving.batching.cache_budget import in_units

    for engine in engines:
        served = engine.served
        notes = [f"context {engine.context:,}" + " (limited by --memory)" * engine.limited_by_memory]
        notes.append(f"cache {in_units(engine.cache_bytes())}")
        if served.base:
            notes.append(f"on the weights of {served.base}")
        if own := own_settings(served.model.generation_config):
            named = ", ".join(f"{name}={value}" for name, value in own.items())
            notes.append(f"generation_config.json recommends {named}: not used")
        print(f"{served.name}: {served.checkpoint}; {'; '.join(notes)}")
    print(f"serving {', '.join(engine.name for engine in engines)} at {url} (Ctrl-C ends it)", flush=True)
