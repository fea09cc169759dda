"""The `align` command: a table of verbs, their help, and dispatch.

Little is imported before a verb is chosen, so that `align --help` answers at once.
"""

import argparse
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

from alignment.cache_places import unset_empty_places
from alignment.errors import UserError, did_you_mean, nearest, raise_all
from alignment.stages import STAGES
from alignment.threads import choose_threads

STAGE = "alignment.cli.train.stage"


VERBS: dict[str, tuple[str, str]] = {
    "doctor": ("alignment.cli.start.doctor", "examine the installation and the machine: what works, what is missing"),
    "init": ("alignment.cli.start.init", "copy a packaged recipe folder, to change and run"),
    "recipe": ("alignment.cli.start.recipe", "explain recipe keys: type, default, whose key, what it does"),
    "completion": ("alignment.cli.start.completion", "print the script that completes commands in bash or zsh"),
    "run": ("alignment.cli.train.run", "run the stages of a recipe folder in order, with evals between them"),
    **{name: (STAGE, stage.help) for name, stage in STAGES.items()},
    "eval": ("alignment.cli.evaluate.eval", "run evaluation suites on a checkpoint or an endpoint"),
    "compare": ("alignment.cli.evaluate.compare", "compare evaluated checkpoints with the first, paired by item"),
    "sample": (
        "alignment.cli.evaluate.sample",
        "write completions, best-of-n replies or preference pairs",
    ),
    "winrate": (
        "alignment.cli.evaluate.winrate",
        "how often a judge prefers one checkpoint's replies to another's",
    ),
    "frontier": (
        "alignment.cli.evaluate.frontier",
        "plot reward against KL distance over PPO training, and find the peak",
    ),
    "reward-card": (
        "alignment.cli.evaluate.reward_card",
        "evaluate a reward model on preference pairs",
    ),
    "check": (
        "alignment.cli.inspect.check",
        "validate a recipe: data, masks, template, memory, time",
    ),
    "bench": (
        "alignment.cli.inspect.bench",
        "measure tokens per second, model FLOP utilisation, parts of a step",
    ),
    "report": ("alignment.cli.inspect.report", "rebuild the report of a run directory, or compare several runs"),
    "watch": ("alignment.cli.inspect.watch", "live view of a run: steps, figures, time left, evaluations"),
    "chat": ("alignment.cli.inspect.chat", "chat with a checkpoint in the terminal, or with several in a browser"),
    "info": (
        "alignment.cli.inspect.info",
        "parameters, FLOPs, KV cache, memory and lineage of a model",
    ),
    "serve": ("alignment.cli.share.serve", "serve checkpoints behind an OpenAI-compatible API"),
    "merge": ("alignment.cli.share.merge", "merge an adapter, and the adapters below it, into plain weights"),
    "import": (
        "alignment.cli.share.import_checkpoint",
        "convert a GPT-2, Llama, Qwen3 or Mixtral checkpoint to this project's architecture",
    ),
    "export": (
        "alignment.cli.share.export_checkpoint",
        "write a checkpoint that loads without this project",
    ),
}

# Exit codes: 0 success, 1 a defect of this program (with its traceback), and these; docs/reliability.md.
USER_ERROR = 2
TIME_IS_UP = 75  # sysexits.h: try again
SIGNALLED = 128  # plus the signal's number: 130 for Ctrl-C, 143 for SIGTERM


Handler = Callable[[int, FrameType | None], Any] | int | None


def usage() -> str:
    """The text of `align --help`: the verbs in groups, which are the folders of alignment/cli."""
    width = max(map(len, VERBS))
    groups: dict[str, list[str]] = {}
    for verb, (module, text) in VERBS.items():
        groups.setdefault(module.split(".")[2], []).append(f"  {verb:{width}}  {text}")
    verbs = "\n\n".join("\n".join([f"{name.capitalize()}:", *lines]) for name, lines in groups.items())
    return f"""usage: align VERB [arguments]

From random weights to an aligned model.

{verbs}

`align VERB --help` describes the arguments of a verb. `--debug` shows the traceback of a user error.
Start with: align run tiny"""


def split_overrides(arguments: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Separate a verb's own arguments from recipe overrides (`--key value`, `--key=value`, or `--key` for true)."""
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


def make_parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser of a verb."""
    parser = argparse.ArgumentParser(prog=f"align {verb}", description=VERBS[verb][1], allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user error")
    parser.set_defaults(verb=verb, verbs={name: place for name, (place, _) in VERBS.items()})
    module.add_arguments(parser)
    return parser


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the options of a parser: `--fresh`, `-h`."""
    return [option for action in parser._actions for option in action.option_strings]


def spelled(arguments: list[str], options: list[str]) -> list[str]:
    """Spell each option as its parser does: `--max_time` and `--max-time` are alike. After `--` nothing is changed."""
    same = {option.replace("_", "-"): option for option in options}
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parts = (argument.partition("=") for argument in arguments[:end])
    found = [same.get(name.replace("_", "-"), name) + equals + value for name, equals, value in parts]
    return found + arguments[end:]


def parse(verb: str, module: ModuleType, arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments of a verb; a parser with a default for `overrides` accepts recipe keys as options too.

    Raises:
        UserError: there is no such option; with recipe keys, that is found when the recipe is read.
    """
    parser = make_parser(verb, module)
    options = options_of(parser)
    arguments = spelled(arguments, options)
    takes_keys = parser.get_default("overrides") is not None
    own, others = split_overrides(arguments, set(options)) if takes_keys else (arguments, [])
    if not takes_keys:
        refuse_unknown_options(verb, arguments, options)
    args = parser.parse_args(own)
    if takes_keys:
        args.overrides, args.options = others, options
    return args


def refuse_unknown_options(verb: str, arguments: list[str], options: list[str]) -> None:
    """Raise for options that a verb does not have, and name the nearest of each."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    names = [argument.partition("=")[0] for argument in arguments[:end] if argument.startswith("--")]
    raise_all(
        [
            UserError(f"no option {name}", fix=did_you_mean(name, options, f"`align {verb} --help` lists the options"))
            for name in names
            if name not in options
        ]
    )


def set_up_logging() -> None:
    """Print the log of this project's packages and the warnings of libraries as plain lines, secrets masked."""
    import logging
    import warnings

    from alignment.redaction import RedactingFilter

    # TRL uses the old name, whatever the recipe says.
    warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    # PEFT's, of step checkpoints; the final checkpoint has only the trained rows (stages/shared/saving.py).
    warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`", UserWarning)

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactingFilter())
    for package in ("alignment", "reward_models", "eval"):
        logging.getLogger(package).setLevel(logging.INFO)


def module_of(verb: str, arguments: list[str]) -> str:
    """The module of a verb. A stage with the name of another verb is run by its recipe: `align sample RECIPE.yaml`."""
    by_recipe = verb in STAGES and any(argument.endswith((".yaml", ".yml")) for argument in arguments[:1])
    return STAGE if by_recipe else VERBS[verb][0]


def run_verb(verb: str, arguments: list[str]) -> int:
    """Import a verb's module, run it, and return the exit code."""
    from alignment.console import silence_bars

    choose_threads()  # before anything imports torch
    unset_empty_places()  # before anything imports huggingface_hub
    silence_bars(sys.stderr)  # before anything imports tqdm
    set_up_logging()
    module = importlib.import_module(module_of(verb, arguments))
    args = argparse.Namespace()
    try:
        require_working_folder()
        args = parse(verb, module, arguments)
        return module.main(args)
    except BrokenPipeError:
        raise
    except Exception as error:
        from alignment.durable.unwritable import explain

        found = error if isinstance(error, UserError) else explain(error)
        if found is None or "--debug" in arguments:
            raise
        print(f"align {verb}: {with_options(found, args)}", file=sys.stderr)
        return USER_ERROR


def require_working_folder() -> None:
    """Raise if the working folder has been deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working folder does not exist any more", fix="cd to a folder that exists") from None


def with_options(error: UserError, args: argparse.Namespace) -> UserError:
    """The error for a misspelt option that was taken for a recipe key, with the nearest option as its fix."""
    if not getattr(args, "overrides", None):
        return error
    from alignment.pipeline.recipes.misspelt import suggest_options

    return suggest_options(error, args.overrides, args.options)


def interrupt_by(signum: int) -> Handler:
    """Let a signal end this process as Ctrl-C does, with clean-up; return the previous handler."""
    owner = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker, which has nothing to clean up
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        raise KeyboardInterrupt(signum)

    return signal.signal(signum, interrupt)


def interrupted(verb: str, stop: KeyboardInterrupt) -> int:
    """Print where the work stopped, and return the exit code."""
    print(f"align {verb}: {getattr(stop, 'message', 'interrupted')}", file=sys.stderr)
    signum = stop.args[0] if stop.args else signal.SIGINT
    return TIME_IS_UP if signum == signal.SIGXCPU else SIGNALLED + signum


def open_streams() -> None:
    """Have a stdout and a stderr that take any text: one that the caller closed is None, and not all are UTF-8.

    Each line is written at once, so that both are in order in one file (`> log 2>&1`).
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open as long as the process)
        elif not (stream.encoding or "utf-8").lower().startswith("utf") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)


def reader_has_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more, as after `| head -1`."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poller.poll(0))


def main(argv: list[str] | None = None) -> int:
    open_streams()
    try:
        code = dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not reader_has_gone():
            raise
        # Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGNALLED + signal.SIGPIPE


def dispatch(arguments: list[str]) -> int:
    """Run the verb that the arguments name, and return the exit code."""
    debug = arguments[:1] == ["--debug"]
    verb, *rest = arguments[debug:] or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(usage())
        return 0
    if verb not in VERBS:
        near = nearest(verb, VERBS)
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
