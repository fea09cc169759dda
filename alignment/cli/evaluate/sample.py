"""`align sample CKPT`: a checkpoint's completions, best-of-n replies or preference pairs, as JSON lines."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.cli.evaluate.judging import REWARD_HELP

if TYPE_CHECKING:
    from eval.generation.generate import Sampling
    from eval.generation.sampled_rows import Samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint folder (full model or adapter) or hub id")
    add_prompt_arguments(parser, required=True)
    parser.add_argument("--output", required=True, metavar="FILE.jsonl", help="a new file of JSON lines")
    parser.add_argument("--n", type=int, help="replies per prompt (default: 1, with --pairs 4)")
    parser.add_argument("--best-of", type=int, metavar="N", help="write the best of N replies, for the sft stage")
    parser.add_argument("--pairs", action="store_true", help="write preference pairs, for the dpo and reward stages")
    parser.add_argument("--reward", metavar="R", help=REWARD_HELP)
    parser.add_argument(
        "--against", choices=["worst", "random"], default="worst", help="the rejected reply of a pair (default: worst)"
    )
    parser.add_argument(
        "--min_margin", type=float, default=0.0, help="pairs with a smaller difference of scores are ties (default: 0)"
    )
    parser.add_argument(
        "--keep_truncated",
        action="store_true",
        help="let --best-of and --pairs choose truncated replies too",
    )
    add_sampling_arguments(parser, temperature=1.0)


def add_prompt_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--prompts",
        required=required,
        metavar="SOURCE",
        help="a file, tinyworld:prompts or a data set on the hub, like a recipe's dataset_name",
    )
    parser.add_argument("--split", help="split of the prompts")
    parser.add_argument("--limit", type=int, help="number of prompts, from the first (default: all)")


def add_sampling_arguments(parser: argparse.ArgumentParser, temperature: float) -> None:
    parser.add_argument("--format", choices=["plain", "chat"], default="chat", help="default: chat")
    parser.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        help=f"0 for greedy decoding (default: {temperature:g})",
    )
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="total probability of the tokens to sample from (default: 1)"
    )
    parser.add_argument("--max_new_tokens", type=int, default=128, help="tokens per reply at most (default: 128)")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="a text that ends a reply; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    parser.add_argument("--batch_size", type=int, default=32)


def sampling_of(args: argparse.Namespace) -> Sampling:
    from eval.generation.generate import Sampling

    names = ("temperature", "top_p", "max_new_tokens", "seed", "batch_size")
    return Sampling(**{name: getattr(args, name) for name in names}, stop=tuple(args.stop))


def main(args: argparse.Namespace) -> int:
    check_arguments(args)
    from alignment.cli.evaluate.judging import load_reward
    from alignment.pipeline.parents import check_outside
    from eval.generation.generate import load_prompts
    from eval.generation.sampled_rows import draw, require_new, summary, write_rows
    from eval.harness.run_suite import load_checkpoint

    sampling = sampling_of(args)
    require_new(Path(args.output))
    check_outside("CKPT", args.checkpoint, "causal-lm", [])
    reward = load_reward(args.reward, args.batch_size) if args.reward else None
    rows, account = load_prompts(args.prompts, args.split, args.limit)
    print(account)
    n = args.best_of or args.n or (4 if args.pairs else 1)
    samples = draw(load_checkpoint(args.checkpoint), rows.to_list(), args.format, sampling, n, reward)
    samples.keep_truncated = args.keep_truncated
    print("\n".join(summary(samples, chosen=args.best_of is not None or args.pairs)))
    written, without = rows_of(args, samples)
    for reason, count in without.items():
        print(f"{count} prompts without a row: {reason}")
    write_rows(args.output, written)
    print(f"{len(written)} rows written to {args.output}")
    return 0


def rows_of(args: argparse.Namespace, samples: Samples) -> tuple[list[dict], Counter[str]]:
    """The rows that the arguments ask for, and reason -> number of prompts without a row.

    Raises:
        UserError: there is no row at all.
    """
    from alignment.errors import UserError
    from eval.generation.sampled_rows import best_rows, completion_rows, pair_rows

    if args.pairs:
        rows, without = pair_rows(samples, args.against, args.min_margin, args.seed)
    elif args.best_of:
        rows, without = best_rows(samples)
    else:
        rows, without = completion_rows(samples), Counter()
    if not rows:
        raise UserError(
            "no prompt gives a row",
            got=", ".join(f"{count} prompts: {reason}" for reason, count in without.items()),
            fix="sample more replies, at a higher temperature, or use a reward that distinguishes them"
            + (", or a larger --max_new_tokens" if any("truncated" in reason for reason in without) else ""),
        )
    return rows, without


def check_arguments(args: argparse.Namespace) -> None:
    """Raise for options that cannot be combined, before anything is loaded."""
    from alignment.errors import UserError, raise_all

    chosen = [f"--best-of {args.best_of}"] * (args.best_of is not None) + ["--pairs"] * args.pairs
    errors = []
    if len(chosen) == 2:
        errors.append(UserError("--best-of and --pairs write different rows", fix="run `align sample` twice"))
    if chosen and not args.reward:
        errors.append(UserError(f"{chosen[0]} needs a reward", expected=f"--reward: {REWARD_HELP}"))
    if args.keep_truncated and not chosen:
        errors.append(
            UserError("--keep_truncated is for chosen replies", expected="--best-of or --pairs", fix="leave it out")
        )
    if args.best_of is not None and args.n is not None:
        errors.append(
            UserError("--best-of says how many replies are drawn", got=f"--n {args.n} too", fix="leave --n out")
        )
    n = args.best_of if args.best_of is not None else args.n
    least = 2 if chosen else 1
    if n is not None and n < least:
        errors.append(UserError("too few replies to each prompt", got=n, expected=f"{least} or more"))
    if args.limit is not None and args.limit < 1:
        errors.append(UserError("--limit leaves no prompt", got=args.limit, expected="1 or more"))
    if chosen and args.temperature == 0:
        errors.append(UserError(f"{chosen[0]} needs different replies", got="--temperature 0", expected="above 0"))
    raise_all(errors)
