"""`align recipe STAGE [KEY]`: explain recipe keys: type, default, whose key, and what it does."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from alignment.pipeline.recipes.explain import SUBJECTS

    parser.add_argument("stage", metavar="STAGE", nargs="?", help=f"one of {', '.join(SUBJECTS)}")
    parser.add_argument("key", metavar="KEY", nargs="?", help="the key to explain (default: list the keys)")
    parser.add_argument("--all", action="store_true", help="a line for every key, also for those of the libraries")


def main(args: argparse.Namespace) -> int:
    from alignment.errors import UserError
    from alignment.pipeline.recipes.explain import SUBJECTS, explain_key, list_keys

    if args.stage is None:
        expected = f"align recipe STAGE [KEY], where STAGE is one of {', '.join(SUBJECTS)}"
        raise UserError("the stage is missing", expected=expected)
    if args.key:
        print(explain_key(args.stage, args.key))
    else:
        print(list_keys(args.stage, args.all))
        print(f"\nalign recipe {args.stage} KEY explains a key{'' if args.all else '; --all describes all keys'}")
    return 0
