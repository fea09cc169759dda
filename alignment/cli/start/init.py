"""`align init DIR --from NAME`: write a copy of a packaged recipe folder, to change and run."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, help="the new folder")
    parser.add_argument("--from", dest="recipe", metavar="NAME", help="the packaged recipe to copy")
    parser.add_argument("--list", action="store_true", help="list the packaged recipes")


def main(args: argparse.Namespace) -> int:
    from alignment.errors import UserError
    from alignment.pipeline.recipes.packaged_recipes import listing
    from alignment.pipeline.recipes.recipe_copy import copy_recipe, next_commands

    if args.list:
        print(listing())
        return 0
    if args.folder is None or args.recipe is None:
        recipes = listing().replace("\n", "\n            ")
        lacking = "the new folder" if args.folder is None else "the recipe to copy"
        expected = f"align init DIR --from NAME, where NAME is one of\n            {recipes}"
        raise UserError(f"{lacking} is missing", expected=expected)
    files = copy_recipe(args.recipe, args.folder)
    print(f"{args.folder}: {', '.join(file.name for file in files)}")
    print("\nnext:", *(f"  {command}" for command in next_commands(args.folder)), sep="\n")
    return 0
