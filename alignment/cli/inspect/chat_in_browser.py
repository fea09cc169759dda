"""`align chat --web CKPT CKPT ...`: pages on the application of `align serve`."""

import argparse
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from alignment.cli.share import serve
from alignment.errors import UserError, raise_all

PORT, HOST, MEMORY, VOTES = 8000, "127.0.0.1", "1G", "votes.jsonl"
STREAMS, QUEUE, GRACE = 32, 64, 2.0


def serve_pages(args: argparse.Namespace) -> int:
    """Serve checkpoints, their API and the pages until a signal."""
    serve.require_extra()
    require_web_settings(args)
    options = server_options(args)
    guard = serve.guard_of(options)
    settings = serve.settings_of(options, len(args.checkpoints))

    from alignment.serving.api.app_factory import make_app
    from alignment.serving.api.http_server import HttpServer, bound_socket
    from alignment.serving.batching.served_models import read_names
    from alignment.serving.web.evaluated_items import evaluated_items
    from alignment.serving.web.votes_file import VotesFile
    from alignment.serving.web.web_requests import Settings
    from alignment.serving.web.web_routes import Web, add_web, page_paths

    named, votes = read_names(args.checkpoints), VotesFile(args.votes or VOTES)
    notes = votes.prepare()
    with ExitStack() as stack:
        listening = stack.enter_context(bound_socket(options.host, options.port))
        engines: list = []
        stack.callback(lambda: [engine.stop() for engine in engines])
        serve.start_engines(named, settings, engines)
        app = make_app(engines, replace(guard, open_paths=[*guard.open_paths, *page_paths()]))
        defaults = Settings(temperature=args.temperature, seed=args.seed, max_tokens=args.max_new_tokens)
        web = Web(app.state.offered, app.state.metrics, votes, defaults, items=partial(evaluated_items, named))
        add_web(app, web)
        url = f"http://{options.host}:{listening.getsockname()[1]}"

        def ready() -> None:
            print("\n".join(notes))
            serve.print_ready(engines, f"{url}/v1")
            print(f"chat at {url}/", flush=True)

        HttpServer(app, engines, GRACE, ready=ready).run(sockets=[listening])
    return 0


def require_web_settings(args: argparse.Namespace) -> None:
    """Raise for settings that the pages do not have."""
    errors = []
    if args.prompt is not None:
        errors.append(UserError("--prompt cannot be combined with --web", fix="leave one of them out"))
    if args.recommended:
        fix = "leave --recommended out, and set the temperature on the page"
        errors.append(UserError("--recommended cannot be combined with --web", fix=fix))
    if args.temperature > 2:
        errors.append(UserError("--temperature is out of range", got=args.temperature, expected="0 to 2 with --web"))
    raise_all(errors)


def server_options(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options of `align serve`."""
    return argparse.Namespace(
        host=args.host or HOST,
        port=PORT if args.port is None else args.port,
        api_key=args.api_key,
        allowed_host=args.allowed_host or [],
        memory=args.memory or MEMORY,
        streams=STREAMS,
        queue=QUEUE,
        grace=GRACE,
    )
