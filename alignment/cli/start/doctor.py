"""`align doctor`: whether the installation works, what the machine can do, and the recipe that fits it."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = """A line begins with ok, note (works at a cost, or optional and missing) or fault. Nothing is
downloaded, and no token is printed. Exit code 0 if the installation is usable, 1 if something required is missing, too
old or broken."""


def main(args: argparse.Namespace) -> int:
    import json
    import shutil
    import sys

    from alignment.doctor.examination import as_dict, as_text, examine

    if sys.stderr.isatty():
        print("importing the main packages takes a few seconds ...", file=sys.stderr)
    found = examine()
    if args.json:
        print(json.dumps(as_dict(found), indent=2))
    else:
        print(as_text(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return 0 if found.usable else 1
