"""From a real base model to an instruct one: recipes/lora-1gpu on GSM8K, self-instruct and hh-rlhf, and what it made.

Each stage runs by its recipe, as a user would run it, with sizes for a CPU (`SIZES`), or with --card the recipes' own
(`CARD`). Then base, SFT, DPO and PPO model are asked the same things: in the SFT model's chat template the loss a reply
token on held-out rows of GSM8K and exact match on them (greedy, no examples), and BLiMP, which tells what alignment
costs in grammar. The reward model is judged on held-out pairs of hh-rlhf, beside the rule that looks at the length
alone. All verdicts are paired by item.

    python benchmarks/real_model.py --model MODEL --math train.jsonl --instructions seed_tasks.jsonl \\
        --preferences hh.jsonl --blimp FOLDER --output_dir runs/real [--card] [--jobs 4] [--quick]

What is finished in --output_dir is not done again. Where under 2% of PPO's rollouts score, a second PPO is rewarded for
the format as well, and is a row of its own. With --jobs, what needs only the SFT model goes side by side.

As found, 2026-11-27, Gemma 3 270M, seed 0 (docs/lora-results.md). One thread of an AMD EPYC, 200 rows of GSM8K, 1,100
pairs of BLiMP; and trained with --card on an H100, asked on the EPYC, 300 rows, 1,100 pairs; p by Holm:

    sizes for a CPU        base    sft    dpo    ppo        with --card  base    sft    dpo    ppo  ppo_format
    gsm8k exact_match     0.000  0.020  0.030  0.020                    0.000  0.030  0.023  0.043       0.040
    blimp acc             0.781  0.796  0.799  0.801                    0.769  0.770  0.768  0.767       0.769
    loss nats a token     1.961  0.897  0.899  0.898                    1.968  0.673  0.673  0.677       0.692
    reward, by length     0.572, 0.549: tied                            0.643, 0.549: better (p = 0.004)

    Better than base: all losses; GSM8K of SFT and both PPOs (card); BLiMP of DPO and PPO (CPU). Worse than SFT: the
    loss of DPO (CPU) and of both PPOs (card). All else is tied.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from alignment.pipeline.records.environment import hardware

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes/lora-1gpu"
HELD_OUT_ROWS = 500  # GSM8K's last, which the recipes leave alone
HELD_OUT_PAIRS = slice(1200, 1500)
SCORED = 0.02
PLAIN = ("base",)  # asked without the template as well, which a base model has not learned
ANSWER = "reward_models.rules:answer_match?column=answer"
FORMAT = "reward_models.rules:matches?pattern=%23%23%23%23%20-%3F[0-9]"
SIZES = {
    "sft": {
        "max_steps": 30,
        "max_length": 384,
        "learning_rate": 5e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "warmup_steps": 3,
        "max_eval_samples": 16,
    },
    "reward": {
        "max_steps": 18,
        "max_length": 384,
        "max_characters": 1200,
        "learning_rate": 2e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_eval_samples": 16,
    },
    "dpo": {
        "max_steps": 8,
        "max_length": 256,
        "max_characters": 800,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_eval_samples": 16,
    },
    "ppo": {
        "max_steps": 6,
        "max_completion_length": 112,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 3,
        "num_iterations": 1,
        "eval_share": 0.0,
        "log_completions": "true",
        "num_completions_to_print": 0,
    },
}
# On a card the recipes' own lengths (two epochs of SFT, one of reward and DPO), in larger batches; PPO is cut.
CARD = {
    "sft": {
        "learning_rate": 4e-4,  # the recipe's, times the root of the batch's growth
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 32,
        "gradient_accumulation_steps": 1,
    },
    "reward": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "dpo": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "ppo": {
        "max_steps": 24,
        "max_completion_length": 192,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "gradient_accumulation_steps": 4,
        "steps_per_generation": 24,
        "num_iterations": 1,
        "eval_share": 0.0,
        "log_completions": "true",
        "num_completions_to_print": 0,
    },
}
INPUTS = {
    "model": "a base model, a folder or hub id",
    "math": "GSM8K's train.jsonl",
    "instructions": "self-instruct's seed_tasks.jsonl",
    "preferences": "pairs of hh-rlhf, a JSONL file",
    "blimp": "a folder of BLiMP's JSONL files",
}
SHAPED = {"reward_funcs": json.dumps([ANSWER, FORMAT]), "reward_weights": "[1.0, 0.2]"}
QUICK = {"rows": 4, "pairs": 2, "held_out_pairs": 4, "new_tokens": 4}
# Logits of a large vocabulary come and go at each step: in large pages they cost less of the system's time.
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_held_out(args: argparse.Namespace) -> None:
    """The questions, pairs of sentences and pairs of replies that all models are asked: random ones, by the seed."""
    folder, draw = args.output_dir / "held-out", random.Random(args.seed)
    math = jsonl(args.math)
    numbers = draw.sample(range(len(math) - min(HELD_OUT_ROWS, len(math) // 2), len(math)), args.rows)
    write_jsonl(folder / "gsm8k.jsonl", [math[number] | {"id": str(number)} for number in sorted(numbers)])
    for path in sorted(args.blimp.glob("*.jsonl")):
        rows = jsonl(path)
        write_jsonl(folder / "blimp" / path.name, draw.sample(rows, min(args.pairs, len(rows))))
    pairs = jsonl(args.preferences)[HELD_OUT_PAIRS] or jsonl(args.preferences)
    write_jsonl(folder / "pairs.jsonl", pairs[: args.held_out_pairs])


def small_inputs(folder: Path) -> dict[str, Path]:
    """A few rows of each kind, by the names of `INPUTS`."""
    paths = {name: folder / (name if name in ("model", "blimp") else f"{name}.jsonl") for name in INPUTS}
    sums = [{"question": f"What is {n} and {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(16)]
    tasks = [{"instruction": f"Name a colour, {n}.", "instances": [{"input": "", "output": "red"}]} for n in range(16)]
    said = {"chosen": "Yes", "rejected": "No, no"}
    pairs = [{side: f"\n\nHuman: {n}?\n\nAssistant: {text}." for side, text in said.items()} for n in range(16)]
    dogs = [{"sentence_good": f"{n} dogs bark.", "sentence_bad": f"{n} dogs barks."} for n in range(2, 6)]
    for name, rows in (("math", sums), ("instructions", tasks), ("preferences", pairs)):
        write_jsonl(paths[name], rows)
    write_jsonl(paths["blimp"] / "dogs.jsonl", dogs)
    return paths


def make_small(args: argparse.Namespace) -> None:
    """A model of random weights, and a few rows of each kind."""
    from alignment.models.gpt import GPTConfig, GPTForCausalLM
    from alignment.stages.shared.saving import save_checkpoint
    from alignment.tokenization.train import train_tokenizer

    for name, value in (small_inputs(args.output_dir / "small") | QUICK).items():
        setattr(args, name, value)
    if args.model.exists():
        return
    texts = [args.math, args.instructions, args.preferences, args.blimp / "dogs.jsonl"]
    tokenizer = train_tokenizer([path.read_text(encoding="utf-8") for path in texts], 300, 1024)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes["max_position_embeddings"] = 1024
    config = GPTConfig.from_preset("modern-tiny", vocab_size=len(tokenizer), **sizes, **tokens)
    save_checkpoint(GPTForCausalLM(config), tokenizer, args.model)


def align(args: argparse.Namespace, name: str, words: list) -> None:
    """A verb of the command line: in a process of its own, which gives back its memory; here in a smoke run."""
    import align as command

    if not args.quick:
        call(args, name, [ROOT / "align.py", *words])
    elif command.main(list(map(str, words))):
        raise SystemExit(f"{name} failed")


def call(args: argparse.Namespace, name: str, words: list) -> None:
    log = args.output_dir / f"{name}.log"
    environment = LARGE_PAGES | os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")


def train(args: argparse.Namespace, stage: str, recipe: str, **options: object) -> dict:
    """A stage by its recipe, unless it is finished; what its stage.json says.

    In a run directory of its own, for a run directory is there for one `align` at a time.
    """
    folder = place(args, stage)
    inputs = {"math": args.math, "instructions": args.instructions, "preferences": args.preferences}
    needed = {"sft": ["math", "instructions"], "reward": ["preferences"], "dpo": ["preferences"], "ppo": ["math"]}
    options = {name: inputs[name] for name in needed[recipe]} | (CARD if args.card else SIZES)[recipe] | options
    options |= {"output_dir": folder, "seed": args.seed, "logging_steps": 1} | ({"max_steps": 2} if args.quick else {})
    options.setdefault("model_name_or_path", place(args, "sft") / "checkpoint")
    if not (folder / "stage.json").exists():
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        align(args, stage, [recipe, RECIPES / f"{recipe}.yaml", "--no-check", *words])
    return read(folder / "stage.json")


def place(args: argparse.Namespace, stage: str) -> Path:
    return args.output_dir / stage / stage


def measure(args: argparse.Namespace, what: str) -> None:
    """Ask the model of a stage (or the base) what all are asked; what is there stays. The process as with `align`."""
    args = argparse.Namespace(**vars(args) | {"measure": what})
    if (args.output_dir / f"evals/{what}.json").exists():
        return
    if args.quick:
        measured_here(args)
    else:
        words = [f"--{name}={value}" for name, value in vars(args).items() if name not in ("quick", "card", "jobs")]
        call(args, f"eval-{what}", [__file__, *words])


def measured_here(args: argparse.Namespace) -> None:
    """The worker of `measure`: its own file comes last, so that where it is, all is."""
    evals = args.output_dir / "evals"
    evals.mkdir(exist_ok=True)
    record = judged(args) if args.measure == "reward" else asked(args, evals)
    (evals / f"{args.measure}.json").write_text(json.dumps(record), encoding="utf-8")


def asked(args: argparse.Namespace, evals: Path) -> dict:
    """The suites, as `align eval` runs them; the loss a token is given back."""
    import torch

    from alignment.models.loading import load_causal_lm, load_tokenizer
    from alignment.tokenization.base import make_chat_ready
    from alignment.tokenization.chat_format import chat_eos_ids
    from eval.harness.run_suite import evaluate_many
    from eval.harness.store import is_whole

    held_out, stage = args.output_dir / "held-out", args.measure
    checkpoint = str(args.model if stage == "base" else place(args, stage) / "checkpoint")
    model, tokenizer = load_causal_lm(checkpoint)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    for parameter in model.parameters():  # merged already, in the base's own type; buffers, as RoPE's, stay in 32 bit
        parameter.data = parameter.data.to(getattr(torch, args.dtype))
    if not tokenizer.chat_template:  # the base is asked in the template that SFT gives it, and may end its turn
        tokenizer = load_tokenizer(checkpoint)
        make_chat_ready(tokenizer)
        model.generation_config.eos_token_id = chat_eos_ids(tokenizer)
    math = f"gsm8k?data={held_out / 'gsm8k.jsonl'}&num_fewshot=0&max_gen_toks={args.new_tokens}"
    options = {"stage": stage, "seed": args.seed, "loaded": (model, tokenizer)}
    # Sentences are scored with logits at every place, replies are made with those of the last alone.
    asked_of = [("blimp", f"blimp?data={held_out / 'blimp'}", "plain", 16), ("gsm8k", math, "chat", args.batch_size)]
    if stage in PLAIN:
        asked_of.append(("gsm8k", math, "plain", args.batch_size))
    for name, suite, format, batch_size in asked_of:
        if not any(is_whole(folder) for folder in evals.glob(f"{stage}-{name}-*{format}")):
            evaluate_many(checkpoint, [suite], [format], evals, batch_size=batch_size, **options)
    return reply_losses(model, tokenizer, jsonl(held_out / "gsm8k.jsonl"))


def reply_losses(model, tokenizer, rows: list[dict]) -> dict[str, list[float]]:
    """Of each row's reply, the end of the turn included: the mean of its tokens' losses, and their number."""
    import torch

    from eval.harness.lm import CausalLM

    requests = []
    for row in rows:
        turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        encoded = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        end = max(place for place, mask in enumerate(encoded["assistant_masks"]) if mask) + 1
        requests.append((None, prompt, encoded["input_ids"][len(prompt) : end]))
    with torch.no_grad():
        scores = CausalLM(model, tokenizer, batch_size=8)._loglikelihood_tokens(requests)
    sizes = [len(reply) for *_, reply in requests]
    return {"nats": [-total / size for (total, _), size in zip(scores, sizes, strict=True)], "tokens": sizes}


def judged(args: argparse.Namespace) -> dict:
    """The reward model on held-out pairs, beside the rule that looks at the length alone."""
    from reward_models.card.margins import agreement
    from reward_models.card.pairs import read_pairs
    from reward_models.card.pairwise import pair_card, score_pairs
    from reward_models.learned import reward

    judge = reward(f"{place(args, 'reward')}/checkpoint", batch_size=8, dtype=args.dtype)
    scores = score_pairs(judge, read_pairs(f"{args.output_dir}/held-out/pairs.jsonl", "train", None))
    card, kept = pair_card(scores), scores.scored
    extra = (scores.words_chosen - scores.words_rejected)[kept] * (1 if card["length_rule"] == "longer" else -1)
    ones = np.ones(len(extra))
    rule, right = agreement(extra, ones), agreement((scores.chosen - scores.rejected)[kept], ones)
    return card | {"over_length": difference(rule, right, ones, higher_is_better=True)}


def difference(a: np.ndarray, b: np.ndarray, weights: np.ndarray, higher_is_better: bool) -> dict:
    """(items,) scores of two sides, paired: the keys of a row of `eval.comparison.compare` that the table needs."""
    from eval.comparison.hypothesis_tests import minimum_detectable_effect, t_test_p
    from eval.comparison.intervals import t_interval
    from eval.comparison.standard_errors import mean_se, weighted_mean

    change, places = b - a, np.arange(len(a))
    delta, se = weighted_mean(change, weights), mean_se(change, weights)
    low, high = t_interval(delta, se, len(places))
    return {
        "value_a": weighted_mean(a, weights),
        "value_b": weighted_mean(b, weights),
        "delta": delta,
        "ci_low": low,
        "ci_high": high,
        "p": t_test_p(delta, se, len(places)),
        "mde": minimum_detectable_effect(se, len(places)),
        "n": len(places),
        "higher_is_better": higher_is_better,
    }


def comparisons(args: argparse.Namespace, stages: list[str]) -> Iterator[dict]:
    """Each model with base and SFT: rows of `compare_pairs`, and the like of the losses, p adjusted over all pairs."""
    from eval.comparison.compare import compare_pairs
    from eval.comparison.hypothesis_tests import holm
    from eval.harness.store import load_run

    evals = args.output_dir / "evals"
    pairs = [(a, b) for a in ("base", "sft") for b in stages if stages.index(a) < stages.index(b)]
    for name, format, asked in (("gsm8k", "chat", stages), ("gsm8k", "plain", PLAIN), ("blimp", "plain", stages)):
        runs = {stage: load_run(next(evals.glob(f"{stage}-{name}-*{format}"))) for stage in asked}
        found = compare_pairs([(runs[a], runs[b]) for a, b in pairs if a in runs and b in runs])
        shown = [row for row in found if row["aggregate"] or name == "gsm8k"]
        for metric in dict.fromkeys(row["metric"] for row in shown):
            family = [row for row in shown if row["metric"] == metric]
            adjusted = holm([np.nan if row["p"] is None else row["p"] for row in family])
            for row in with_verdicts(family, adjusted):
                yield row | {"task": f"{name} {format}" if name == "gsm8k" else name}
    losses = {stage: read(evals / f"{stage}.json") for stage in stages}
    rows = []
    for a, b in pairs:
        nats = [np.array(losses[stage]["nats"]) for stage in (a, b)]
        row = difference(*nats, np.array(losses[b]["tokens"]), higher_is_better=False)
        rows.append({"a": a, "b": b, "task": "loss", "metric": "nats a token"} | row)
    yield from with_verdicts(rows, holm([row["p"] for row in rows]))


def with_verdicts(rows: list[dict], adjusted: list[float]) -> list[dict]:
    for row, p in zip(rows, adjusted, strict=True):
        gain = row["delta"] if row["higher_is_better"] else -row["delta"]
        verdict = "unknown" if np.isnan(p) else "tied" if p > 0.05 else "better" if gain > 0 else "worse"
        row |= {"p_holm": p, "verdict": verdict}
    return rows


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def scored_share(folder: Path) -> float:
    """The share of a PPO run's completions whose answer was right."""
    rewards = [row["rewards"]["answer_match"] for row in jsonl(folder / "trainer/completions.jsonl")]
    return float(np.mean([value > 0 for value in rewards]))


def show(stages: list[str], trained: dict[str, dict], rows: list[dict], card: dict) -> dict:
    """The tables; the figures of each model."""
    metrics = list(dict.fromkeys((row["task"], row["metric"]) for row in rows))
    values = {stage: {} for stage in stages}
    for row in rows:
        for side in ("a", "b"):
            values[row[side]][f"{row['task']} {row['metric']}"] = row[f"value_{side}"]
    heads = [" ".join(metric) for metric in metrics]
    print(f"{'':12}" + "".join(f"{head:>40}" for head in heads) + f"{'minutes':>10}{'GB':>7}")
    for stage, found in values.items():
        took = trained.get(stage)
        cost = f"{took['seconds'] / 60:>10.1f}{took['peak_memory_gb']:>7.1f}" if took else ""
        print(f"{stage:12}" + "".join(f"{found.get(head, np.nan):>40.4f}" for head in heads) + cost)
    print(f"\n{'compared':20}{'':40}{'b - a':>9}  {'95% interval':22}{'p':>8}  {'verdict':8}{'detectable':>10}{'n':>6}")
    reward = card["over_length"] | {"a": "length", "b": "reward", "task": "pairs", "metric": "accuracy"}
    for row in [*rows, *with_verdicts([reward], [reward["p"]])]:
        what = f"{row['a']} -> {row['b']}".ljust(20) + f"{row['task']} {row['metric']}".ljust(40)
        low, high, mde = (float("nan") if row[key] is None else row[key] for key in ("ci_low", "ci_high", "mde"))
        print(f"{what}{row['delta']:>+9.4f}  [{low:+.4f}, {high:+.4f}]".ljust(93), end="")
        print(f"{row['p_holm']:>8.2g}  {row['verdict']:8}{mde:>10.4f}{row['n']:>6}")
    right, rule = f"{card['accuracy']:.3f}", f"{card['length_rule']} {card['length_baseline']:.3f}"
    print(f"\nreward model: right on {right} of {card['n']} held-out pairs; by length alone: {rule}")
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, help in INPUTS.items():
        parser.add_argument(f"--{name}", type=Path, help=help)
    parser.add_argument("--output_dir", type=Path, help="keeps all there, and goes on from what is finished")
    parser.add_argument("--rows", type=int, default=200, help="of GSM8K, of those held out")
    parser.add_argument("--pairs", type=int, default=50, help="of each paradigm of BLiMP")
    parser.add_argument("--held_out_pairs", type=int, default=300, help="for the reward model")
    parser.add_argument("--new_tokens", type=int, default=128, help="of a reply at most")
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--dtype", default="bfloat16", help="that the models are asked in")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--card", action="store_true", help="the recipes' own lengths, for a GPU")
    parser.add_argument("--jobs", type=int, default=1, help="stages and evaluations side by side")
    parser.add_argument("--quick", action="store_true", help="a smoke run on made-up data: the figures mean nothing")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # of a worker
    args = parser.parse_args()
    with TemporaryDirectory() as temporary:
        args.output_dir = args.output_dir or Path(temporary)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        if args.measure:
            measured_here(args)
        else:
            run(args)


class Here(Executor):
    """Does each job at once and in this thread, where alone stages can listen to signals."""

    def submit(self, do, *args, **options) -> Future:
        done = Future()
        done.set_result(do(*args, **options))
        return done


def made(args: argparse.Namespace) -> dict[str, dict]:
    """All stages, trained and asked; what their stage.json say, in the table's order."""
    with ThreadPoolExecutor(args.jobs) if args.jobs > 1 and not args.quick else Here() as jobs:
        begun = [jobs.submit(measure, args, "base")]
        sft = jobs.submit(train, args, "sft", "sft", model_name_or_path=args.model).result()
        begun += [jobs.submit(measure, args, "sft"), jobs.submit(train_and_measure, args, "reward")]
        dpo, ppo = jobs.submit(train_and_measure, args, "dpo"), jobs.submit(run_ppo, args)
        for job in begun:
            job.result()
        return {"sft": sft, "dpo": dpo.result(), **ppo.result()}


def train_and_measure(args: argparse.Namespace, stage: str, **options: object) -> dict:
    found = train(args, stage, stage.partition("_")[0], **options)
    measure(args, stage)
    return found


def run_ppo(args: argparse.Namespace) -> dict[str, dict]:
    """PPO for the answer, and where it hardly ever scores, one for the format as well."""
    found = {"ppo": train_and_measure(args, "ppo")}
    if scored_share(place(args, "ppo")) < SCORED:
        found["ppo_format"] = train_and_measure(args, "ppo_format", **SHAPED)
    return found


def run(args: argparse.Namespace) -> None:
    if args.quick:
        make_small(args)
    elif missing := [name for name in INPUTS if getattr(args, name) is None]:
        raise SystemExit(f"needed: {', '.join(f'--{name}' for name in missing)} (or --quick)")
    if not (args.output_dir / "held-out/pairs.jsonl").exists():
        make_held_out(args)
    trained = made(args)
    rows = list(comparisons(args, ["base", *trained]))
    card = read(args.output_dir / "evals/reward.json")
    values = show(["base", *trained], trained, rows, card)
    scored = {stage: scored_share(place(args, stage)) for stage in trained if stage.startswith("ppo")}
    print("share of rollouts that score: " + ", ".join(f"{stage} {share:.3f}" for stage, share in scored.items()))
    figures = {"models": values, "comparisons": rows, "reward": card, "scored": scored}
    print(json.dumps({"figures": figures, "targets": {}, "met": True, "machine": hardware()}))


if __name__ == "__main__":
    main()
