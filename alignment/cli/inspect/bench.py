"""`align bench`: measure how fast this machine trains a preset, or the stage of a recipe."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from alignment.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", metavar="PRESET|RECIPE", help="a preset (align info lists them), or a recipe file")
    parser.add_argument("--stage", help="the stage of a recipe file (default: from pipeline.yaml or the file's name)")
    parser.add_argument("--output_dir", metavar="RUN_DIR", help="where to find finished parents (default: runs/NAME)")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps per measurement (default: 10)")
    parser.add_argument("--warmup", type=int, default=3, help="optimizer steps before measuring (default: 3)")
    parser.add_argument("--rows", type=int, default=2000, help="rows of a recipe's data to prepare (default: 2000)")
    parser.add_argument("--profile", metavar="DIR", help="write a torch profiler trace of three steps to DIR")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.set_defaults(overrides=[])
    parser.epilog = """recipe keys, after PRESET (keys of a pretrain recipe) or RECIPE:
  --key value     --per_device_train_batch_size 32, --torch_compile true, --model_config.num_hidden_layers 6

A preset is trained on random tokens, a stage on its own data. No checkpoint is kept."""


def main(args: argparse.Namespace) -> int:
    if min(args.steps, args.warmup, args.rows) < 1:
        raise UserError("--steps, --warmup and --rows must be 1 or more")
    from dataclasses import asdict

    from alignment.callbacks.step_timer import StepTimer
    from alignment.cli.inspect.check import stage_of
    from alignment.estimate.throughput import bare_overrides, bench_preset, bench_stage, describe
    from alignment.models.gpt import GPTConfig
    from alignment.pipeline.graph import load_stage
    from alignment.pipeline.recipes.packaged_recipes import locate_recipe
    from alignment.stages import STAGES, TOKENIZER

    timer = StepTimer(args.steps, args.warmup, Path(args.profile) if args.profile else None)
    recipe = locate_recipe(args.what)
    if recipe.is_file():
        stage = stage_of(recipe, args.stage)
        if STAGES[stage].checkpoint == TOKENIZER:
            raise UserError(f"the {stage} stage has no steps to measure", expected="a recipe of another stage")
        place = str(Path(args.output_dir) / stage) if args.output_dir else None
        pipeline = load_stage(stage, recipe, bare_overrides(args.overrides, timer, args.rows), place)
    else:
        if recipe.suffix in (".yaml", ".yml") or recipe.exists():
            raise UserError(f"no recipe file at {recipe}", expected="a preset, or a recipe: recipes/tiny/sft.yaml")
        GPTConfig.from_preset(args.what)  # raises for an unknown name, and lists the presets
    with redirect_stdout(sys.stderr):  # Trainer prints
        if recipe.is_file():
            found = bench_stage(pipeline.stages[0], pipeline.run_dir, timer)
        else:
            found = bench_preset(args.what, args.overrides, timer)
    figures = {"tokens_per_second": found.tokens_per_second, "utilisation": found.utilisation}
    print(json.dumps(asdict(found) | figures) if args.json else describe(found))
    return 0
