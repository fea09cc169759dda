"""The `align` command: a table of verbs, their help, and dispatch.

No package is imported until a verb is chosen, so `align --help` answers at once.
"""

import argparse
import difflib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable

STAGE = "alignment.cli.train.stage"


def stage_verbs() -> dict[str, tuple[str, str]]:
    """The stages as verbs, from their table; the file is read without its package, whose import takes seconds."""
    package = importlib.util.find_spec("alignment")
    assert package and package.submodule_search_locations
    path = os.path.join(package.submodule_search_locations[0], "stages", "__init__.py")
    spec = importlib.util.spec_from_file_location("stage_table", path)
    assert spec and spec.loader
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    return {name: (STAGE, stage.help) for name, stage in table.STAGES.items()}


VERBS: dict[str, tuple[str, str]] = {
    "run": ("alignment.cli.train.run", "run the stages of a recipe folder in order, with evals between them"),
    **stage_verbs(),
    "check": ("alignment.cli.inspect.check", "look at a recipe, its data and its cost before any training"),
    "bench": ("alignment.cli.inspect.bench", "tokens a second, model FLOP utilisation and where a step's time goes"),
    "eval": ("alignment.cli.evaluate.eval", "run eval suites on a checkpoint"),
    "compare": ("alignment.cli.evaluate.compare", "compare evaluated checkpoints with the first, item by item"),
    "sample": ("alignment.cli.evaluate.sample", "completions, best-of-n replies or preference pairs of a checkpoint"),
    "winrate": ("alignment.cli.evaluate.winrate", "how often a judge prefers one checkpoint's replies to another's"),
    "frontier": (
        "alignment.cli.evaluate.frontier",
        "reward against the distance that PPO has gone, and where it peaks",
    ),
    "reward-card": ("alignment.cli.evaluate.reward_card", "how far a reward model can be trusted, on preference pairs"),
    "report": ("alignment.cli.inspect.report", "build the report of a run directory anew"),
    "chat": ("alignment.cli.inspect.chat", "talk to a checkpoint in the terminal"),
    "info": ("alignment.cli.inspect.info", "parameters, arithmetic, cache and memory of a preset or checkpoint"),
    "merge": ("alignment.cli.share.merge", "merge an adapter, and those below it, into plain weights"),
    "import": (
        "alignment.cli.share.import_checkpoint",
        "make a GPT-2, Llama, Qwen3 or Mixtral checkpoint one of our own",
    ),
    "export": (
        "alignment.cli.share.export_checkpoint",
        "write a checkpoint that loads where this project is not installed",
    ),
}

# Exit codes, with 0 for done and 1 for a defect of this program, which shows its traceback: docs/reliability.md.
USER_ERROR = 2
TIME_IS_UP = 75  # sysexits.h: try again
SIGNALLED = 128  # and the signal's number: 130 for Ctrl-C, 143 for SIGTERM


def usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {text}" for verb, (_, text) in VERBS.items())
    return f"""usage: align VERB [arguments]

From random weights to an aligned model.

{verbs}

`align VERB --help` describes a verb's arguments. `--debug` shows the traceback of a reported mistake.
Start here: align run recipes/tiny"""


def split_overrides(arguments: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Part a verb's own arguments from recipe overrides (`--key value`, `--key=value`, or `--key` for true)."""
    own, overrides, rest = [], [], list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token.split("=")[0] in known:
            own.append(token)
            continue
        overrides.append(token)
        if "=" not in token and rest and not rest[0].startswith("--"):
            overrides.append(rest.pop(0))
    return own, overrides


def parse(verb: str, module, arguments: list[str]) -> argparse.Namespace:
    """Arguments of a verb; one whose parser sets a default for `overrides` takes recipe keys as options too."""
    parser = argparse.ArgumentParser(prog=f"align {verb}", description=VERBS[verb][1], allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a reported mistake")
    parser.set_defaults(verb=verb)
    module.add_arguments(parser)
    if parser.get_default("overrides") is None:
        return parser.parse_args(arguments)
    known = {option for action in parser._actions for option in action.option_strings}
    own, overrides = split_overrides(arguments, known)
    args = parser.parse_args(own)
    args.overrides = overrides
    return args


def set_up_logging() -> None:
    """What our own packages have to say, and the libraries' warnings, as plain lines."""
    import logging
    import warnings

    from alignment.masking import MaskingFilter

    # TRL asks transformers for this by its old name: no recipe can mend it.
    warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", FutureWarning)

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(MaskingFilter())
    for package in ("alignment", "reward_models", "eval"):
        logging.getLogger(package).setLevel(logging.INFO)


def run_verb(verb: str, arguments: list[str]) -> int:
    set_up_logging()
    module = importlib.import_module(VERBS[verb][0])
    from alignment.errors import UserError

    args = parse(verb, module, arguments)
    try:
        return module.main(args)
    except UserError as error:
        if args.debug:
            raise
        print(f"align {verb}: {error}", file=sys.stderr)
        return USER_ERROR


def interrupt_by(signum: int) -> Callable:
    """Let a signal end this process as Ctrl-C does, cleaning up on the way; the handler that it had before."""
    owner = os.getpid()

    def interrupt(signum, frame):
        if os.getpid() != owner:  # a worker forked from it, which has nothing to clean up
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        raise KeyboardInterrupt(signum)

    return signal.signal(signum, interrupt)


def interrupted(verb: str, stop: KeyboardInterrupt) -> int:
    """Say where the work stopped, and return the exit code."""
    print(f"align {verb}: {getattr(stop, 'message', 'interrupted')}", file=sys.stderr)
    signum = stop.args[0] if stop.args else signal.SIGINT
    return TIME_IS_UP if signum == signal.SIGXCPU else SIGNALLED + signum


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    debug = arguments[:1] == ["--debug"]
    verb, *rest = arguments[debug:] or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(usage())
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `align {near[0]}`?" if near else "`align --help` lists the verbs"
        print(f"align: no verb {verb!r}: {hint}", file=sys.stderr)
        return USER_ERROR
    before = interrupt_by(signal.SIGTERM)
    try:
        return run_verb(verb, [*rest, "--debug"] if debug else rest)
    except KeyboardInterrupt as stop:
        return interrupted(verb, stop)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
