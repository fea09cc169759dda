"""`align winrate A B --judge J`: how often a judge prefers A's replies to B's, with interval and length drift.

`align winrate VOTES`: the same of people's votes, with ratings.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.cli.evaluate.judging import JUDGE_HELP
from alignment.cli.evaluate.sample import add_sampling_arguments, sampling_of

if TYPE_CHECKING:
    from eval.generation.generate import Sampling
    from eval.generation.winrate import Outputs

PROMPTS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    side = "a checkpoint, or a file of outputs (JSON lines, as `align sample` writes them)"
    parser.add_argument(
        "a",
        metavar="A",
        help=f"{side}; or, without B, a file of votes that `align chat --web` wrote, which needs no judge",
    )
    parser.add_argument("b", nargs="?", metavar="B", help=side)
    parser.add_argument("--judge", metavar="J", help=f"{JUDGE_HELP}; needed with B")
    parser.add_argument(
        "--prompts",
        metavar="SOURCE",
        help="prompts for two checkpoints: a file, tinyworld:prompts or a data set on the hub",
    )
    parser.add_argument(
        "--split", help="split of the prompts (default: the source's held-out split if it has one, otherwise train)"
    )
    parser.add_argument(
        "--n", type=int, help="number of prompts, from the first (default: 200 of a source, all of a file)"
    )
    parser.add_argument(
        "--epsilon", type=float, default=0.0, help="scores at most this far apart are a tie (default: 0)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures and all pairs of replies to a new file")
    add_sampling_arguments(parser, temperature=0.0)


def main(args: argparse.Namespace) -> int:
    if args.b is None:
        from alignment.cli.evaluate.voted import report_votes

        return report_votes(args)
    return judge_sides(args)


def judge_sides(args: argparse.Namespace) -> int:
    """Have a judge compare two sides, and print the result."""
    from alignment.cli.evaluate.judging import load_judge
    from alignment.errors import UserError
    from eval.generation.sampled_rows import require_new, write_json
    from eval.generation.winrate import compare_outputs

    sampling = sampling_of(args)
    check_arguments(args)
    if args.json:
        require_new(Path(args.json))
    judge = load_judge(args.judge, args.batch_size)
    a, b, left_out = outputs(args, sampling)
    result = {"a": args.a, "b": args.b, "judge": args.judge, "prompts": args.prompts, "left_out": left_out}
    result |= {"settings": settings(args, sampling), **compare_outputs(a, b, judge, args.epsilon)}
    print("\n".join(lines(result)))
    if args.json:
        write_json(args.json, result)
        print(f"written to {args.json}")
    if not result["n"]:
        raise UserError(
            "the judge has no opinion on any pair",
            got=f"{result['unjudged']} pairs without a verdict",
            expected="a judge that scores these prompts and replies",
            fix="give the columns that the judge reads, or another --judge",
        )
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise for invalid arguments before anything is loaded."""
    from alignment.errors import UserError, raise_all
    from alignment.pipeline.parents import check_outside

    sides = [side for side in (args.a, args.b) if not Path(side).is_file()]
    errors = []
    if not args.judge:
        errors.append(UserError("two sides need a judge", expected="--judge J", fix="see `align winrate --help`"))
    if len(sides) == 2 and not args.prompts:
        errors.append(UserError("two checkpoints need prompts", expected="--prompts SOURCE, such as tinyworld:prompts"))
    if len(sides) < 2 and args.prompts:
        errors.append(
            UserError(
                "--prompts cannot be combined with a file of outputs, which has its own prompts",
                got=f"--prompts {args.prompts}",
                fix="leave it out",
            )
        )
    if args.n is not None and args.n < 1:
        errors.append(UserError("--n leaves no prompt", got=args.n, expected="1 or more"))
    if not 0 <= args.epsilon < float("inf"):
        errors.append(UserError("--epsilon cannot be negative", got=args.epsilon, expected="0 or more"))
    raise_all(errors)
    for side in sides:
        check_outside("A or B", side, "causal-lm", [])


def outputs(args: argparse.Namespace, sampling: Sampling) -> tuple[Outputs, Outputs, dict[str, int]]:
    """The outputs of both sides; if one is a file, the checkpoint on the other side answers its prompts.

    Also {a, b, prompts}: how many of the prompts leave a side's model no room for a reply; printed if there are any.
    """
    from alignment.data.reading.sources import own_test_split
    from eval.generation.generate import load_prompts
    from eval.generation.sampled_rows import draw
    from eval.generation.winrate import outputs_of_file, outputs_of_samples
    from eval.harness.run_suite import load_checkpoint

    found = {side: outputs_of_file(side) for side in (args.a, args.b) if Path(side).is_file()}
    if found and args.n is not None:
        found = first_shared(found, args.n)
    if found:
        rows = [output.row for output in next(iter(found.values())).values()]
    else:
        split = args.split or own_test_split(args.prompts)
        dataset, account = load_prompts(args.prompts, split, args.n or PROMPTS)
        rows = dataset.to_list()
        print(account)
    left_out = {"a": 0, "b": 0, "prompts": len(rows)}
    too_long: dict[str, int] = {}
    for name, side in (("a", args.a), ("b", args.b)):
        if side not in found:
            samples = draw(load_checkpoint(side), rows, args.format, sampling, n=1)
            found[side], too_long[side] = outputs_of_samples(samples), samples.too_long
        left_out[name] = too_long.get(side, 0)
        if left_out[name]:
            print(
                f"left out: {left_out[name]} of {len(rows)} prompts leave {name.upper()} no room for a reply "
                "(--max_new_tokens)"
            )
    return found[args.a], found[args.b], left_out


def first_shared(found: dict[str, Outputs], n: int) -> dict[str, Outputs]:
    """The outputs of files, limited to the first n prompts among those that all files answer."""
    first, *others = found.values()
    beyond = set([key for key in first if all(key in other for other in others)][n:])
    return {
        side: {key: output for key, output in outputs.items() if key not in beyond} for side, outputs in found.items()
    }


def settings(args: argparse.Namespace, sampling: Sampling) -> dict:
    """The settings of the comparison, for the JSON file."""
    from dataclasses import asdict

    return {"format": args.format, "split": args.split, "n": args.n, "epsilon": args.epsilon, **asdict(sampling)}


def lines(result: dict) -> list[str]:
    """The result as lines for the terminal."""
    from eval.comparison.table import side_table

    if not result["n"]:
        message = f"no pair was judged: {result['unjudged']} without an opinion"
        return [f"A {result['a']}", f"B {result['b']}", message, *answer_notes(result)]
    interval = "" if result["ci_low"] is None else f" [{result['ci_low']:.1%}, {result['ci_high']:.1%}]"
    words = {"a": "A is better", "b": "B is better", "tied": "tied", "unknown": "no verdict: a single prompt"}
    found = [
        f"A {result['a']}",
        f"B {result['b']}",
        f"win rate of A over B, by {result['judge']}: {result['win_rate']:.1%}{interval}, {words[result['verdict']]}",
        f"{result['win']} wins, {result['tie']} ties, {result['loss']} losses of A on {result['n']} pairs of replies "
        f"to {result['clusters']} prompts; {result['identical']} pairs have the same text",
        *notes(result),
        side_table(result["sides"]),
    ]
    return found


def answer_notes(result: dict) -> list[str]:
    """The number of the judge's answers that could not be read, and of failed requests."""
    counts = result["answers"]
    if not counts or not counts["unreadable"] + counts["failed"]:
        return []
    asked, failed = counts["asked"], f", {counts['failed']} requests failed" if counts["failed"] else ""
    return [f"{counts['unreadable']} of the judge's {asked} answers could not be read{failed}"]


def notes(result: dict) -> list[str]:
    """Further lines: unread answers, pairs left out, position bias, length."""
    found = answer_notes(result)
    if result["unjudged"]:
        found.append(f"left out: {result['unjudged']} pairs on which the judge has no opinion")
    if result["only_a"] or result["only_b"]:
        found.append(f"left out: {result['only_a']} replies only of A, {result['only_b']} only of B")
    if result["position"]:
        first, disagree = result["position"]["first"], result["position"]["disagree"]
        found.append(
            f"position: the judge prefers the reply that it sees first {first:.1%} of the time (50% without bias); the "
            f"two orders disagree on {disagree:.1%} of the pairs"
        )
    drift = result["length_drift"]
    interval = "" if drift["ci_low"] is None else f" [{drift['ci_low']:+.2f}, {drift['ci_high']:+.2f}]"
    found.append(f"length: A's replies minus B's replies: {drift['words']:+.2f}{interval} words on average")
    controlled = result["length_controlled"]
    interval = "" if controlled["ci_low"] is None else f" [{controlled['ci_low']:.1%}, {controlled['ci_high']:.1%}]"
    found.append(f"win rate at equal length: {controlled['win_rate']:.1%}{interval}")
    return found
