"""`align winrate A B --judge J`: how often a judge prefers A's replies to B's, with interval and length drift."""

from __future__ import annotations

import argparse
from pathlib import Path

from alignment.cli.evaluate.judging import JUDGE_HELP
from alignment.cli.evaluate.sample import add_sampling_arguments, sampling_of

PROMPTS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    side = "a checkpoint, or a file of outputs (JSON lines, as `align sample` writes them)"
    parser.add_argument("a", metavar="A", help=side)
    parser.add_argument("b", metavar="B", help=side)
    parser.add_argument("--judge", required=True, metavar="J", help=JUDGE_HELP)
    parser.add_argument(
        "--prompts",
        metavar="SOURCE",
        help="where both are checkpoints: a file, tinyworld:prompts or a data set on the hub",
    )
    parser.add_argument("--split", help="split of the prompts; default: the source's own held-out one, else train")
    parser.add_argument("--n", type=int, help="prompts, from the first (default: 200 of a source, all of a file)")
    parser.add_argument("--epsilon", type=float, default=0.0, help="a reward's scores this near are a tie (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write all figures and every pair of replies to a new file")
    add_sampling_arguments(parser, temperature=0.0)


def main(args: argparse.Namespace) -> int:
    from alignment.cli.evaluate.judging import load_judge
    from eval.generation.sample import require_new, write_json
    from eval.generation.winrate import compare_outputs

    sampling = sampling_of(args)
    check_arguments(args)
    if args.json:
        require_new(Path(args.json))
    judge = load_judge(args.judge, args.batch_size)
    a, b = outputs(args, sampling)
    result = {"a": args.a, "b": args.b, "judge": args.judge, "prompts": args.prompts}
    result |= {"settings": settings(args, sampling), **compare_outputs(a, b, judge, args.epsilon)}
    print("\n".join(lines(result)))
    if args.json:
        write_json(args.json, result)
        print(f"written to {args.json}")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise for what can be known before anything is loaded."""
    from alignment.errors import UserError, raise_all
    from alignment.pipeline.parents import check_outside

    sides = [side for side in (args.a, args.b) if not Path(side).is_file()]
    errors = []
    if len(sides) == 2 and not args.prompts:
        errors.append(UserError("two checkpoints need prompts", expected="--prompts SOURCE, such as tinyworld:prompts"))
    if len(sides) < 2 and args.prompts:
        errors.append(
            UserError("the prompts are those of the file", got=f"--prompts {args.prompts}", fix="leave it out")
        )
    if args.n is not None and args.n < 1:
        errors.append(UserError("--n leaves no prompt", got=args.n, expected="1 or more"))
    if args.epsilon < 0:
        errors.append(UserError("--epsilon cannot be negative", got=args.epsilon, expected="0 or more"))
    raise_all(errors)
    for side in sides:
        check_outside("A or B", side, "causal-lm", [])


def outputs(args: argparse.Namespace, sampling) -> tuple[dict, dict]:
    """The outputs of both sides; a checkpoint answers the other side's prompts where that is a file."""
    from alignment.data.reading.sources import own_test_split
    from eval.generation.generate import load_prompts
    from eval.generation.winrate import outputs_of_checkpoint, outputs_of_file
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
    for side in (args.a, args.b):
        if side not in found:
            found[side] = outputs_of_checkpoint(load_checkpoint(side), rows, args.format, sampling)
    return found[args.a], found[args.b]


def first_shared(found: dict[str, dict], n: int) -> dict[str, dict]:
    """The outputs of files without those to prompts that all of them answer, beyond the first n of these."""
    first, *others = found.values()
    beyond = set([key for key in first if all(key in other for other in others)][n:])
    return {
        side: {key: output for key, output in outputs.items() if key not in beyond} for side, outputs in found.items()
    }


def settings(args: argparse.Namespace, sampling) -> dict:
    from dataclasses import asdict

    return {"format": args.format, "split": args.split, "n": args.n, "epsilon": args.epsilon, **asdict(sampling)}


def lines(result: dict) -> list[str]:
    """The result in lines for the terminal."""
    from eval.comparison.table import side_table

    if not result["n"]:
        told = f"no pair was judged: {result['unjudged']} without an opinion"
        return [f"A {result['a']}", f"B {result['b']}", told, *answer_notes(result)]
    interval = "" if result["ci_low"] is None else f" [{result['ci_low']:.1%}, {result['ci_high']:.1%}]"
    words = {"a": "A is better", "b": "B is better", "tied": "tied", "unknown": "verdict unknown: a single prompt"}
    found = [
        f"A {result['a']}",
        f"B {result['b']}",
        f"win rate of A over B, by {result['judge']}: {result['win_rate']:.1%}{interval}, {words[result['verdict']]}",
        f"{result['win']} wins, {result['tie']} ties, {result['loss']} losses of A on {result['n']} pairs of replies "
        f"to {result['clusters']} prompts; {result['identical']} pairs are the same text",
        *notes(result),
        side_table(result["sides"]),
    ]
    return found


def answer_notes(result: dict) -> list[str]:
    """How many of the judge's answers could not be read, or did not come."""
    counts = result["answers"]
    if not counts or not counts["unreadable"] + counts["failed"]:
        return []
    asked, failed = counts["asked"], f", {counts['failed']} requests failed" if counts["failed"] else ""
    return [f"{counts['unreadable']} of {asked} answers of the judge could not be read{failed}"]


def notes(result: dict) -> list[str]:
    """What else is worth telling."""
    found = answer_notes(result)
    if result["unjudged"]:
        found.append(f"{result['unjudged']} pairs without an opinion of the judge are left out")
    if result["only_a"] or result["only_b"]:
        found.append(f"left out: {result['only_a']} replies of A alone, {result['only_b']} of B alone")
    if result["position"]:
        first, disagree = result["position"]["first"], result["position"]["disagree"]
        found.append(
            f"position: the reply seen first is preferred {first:.1%} of the time (50% without bias); the two orders "
            f"disagree on {disagree:.1%} of the pairs"
        )
    drift = result["length_drift"]
    interval = "" if drift["ci_low"] is None else f" [{drift['ci_low']:+.2f}, {drift['ci_high']:+.2f}]"
    found.append(f"length: A's replies have {drift['words']:+.2f}{interval} words on B's")
    controlled = result["length_controlled"]
    interval = "" if controlled["ci_low"] is None else f" [{controlled['ci_low']:.1%}, {controlled['ci_high']:.1%}]"
    found.append(f"win rate with replies of one length: {controlled['win_rate']:.1%}{interval}")
    return found
