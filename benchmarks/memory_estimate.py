"""How far off are the estimates of memory that `align check` gives, on the machine at hand?

Every stage runs two steps on GPTs of random weights and rows of full length, and its peak is set beside what
`alignment.estimate` says for its recipe. On a GPU the peak is what torch allocated; the estimate is told without
the share that it gives the framework, which lies outside. PPO's rows also tell what an update takes: a rollout with its
two optimizer steps, the second. On a CPU the peak is the process's, which holds what earlier rows left behind.

    python benchmarks/memory_estimate.py [--presets gpt2 gpt2-medium] [--rows sft ppo] [--batch 8] [--quick]

One NVIDIA H200, torch 2.11, driver 580, measured 2026-11-26, GPT-2 (124M); GB as predicted (afterwards, by
2026-11-27's estimate, for rows of 1,020 tokens) and measured: pretrain 9.13, 9.88; checkpointed 6.49, 6.93; sft 2.63,
2.45; sft with LoRA 1.64, 1.62; reward 3.16, 2.80; dpo 3.66, 3.45; dpo with LoRA 2.40, 2.16: within 13%, the target
being 25%. PPO's rows have not run there yet.
"""

import argparse
import contextlib
import gc
import importlib
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoTokenizer

from alignment.data.tinyworld import WorldConfig, load
from alignment.estimate.compute import this_device
from alignment.estimate.estimate import estimate
from alignment.estimate.workload import TokenStatistics
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.records.environment import hardware
from alignment.stages import STAGES
from alignment.stages.shared.saving import save_checkpoint
from alignment.tokenization.train import train_tokenizer

BASE = {"eval_share": 0.0, "save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True}
BASE |= {"logging_steps": 2, "max_steps": 2}
LORA = {"use_peft": True, "lora_r": 16, "lora_alpha": 32}
PPO = {
    "reward_funcs": ["reward_models.rules:length_penalty?each=0.01"],
    "num_iterations": 1,
    "steps_per_generation": 4,
    "max_steps": 6,
}
PPO |= {"gradient_accumulation_steps": 2}
ROWS = {
    "pretrain": ("pretrain", {"activation_checkpointing": False}),
    "pretrain, checkpointed": ("pretrain", {"activation_checkpointing": True}),
    "sft": ("sft", {}),
    "sft, LoRA": ("sft", LORA),
    "reward": ("reward", {}),
    "dpo": ("dpo", {}),
    "dpo, LoRA": ("dpo", LORA),
    "ppo, separate critic": ("ppo", PPO | {"critic_mode": "separate"}),
    "ppo, value head": ("ppo", PPO | {"critic_mode": "shared_head"}),
    "ppo, LoRA": ("ppo", PPO | LORA | {"critic_mode": "lora"}),
}
VOCABULARY, COUNT = 50304, 64
TOLERANCE = 0.25
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_data(folder: Path, length: int) -> dict[str, TokenStatistics]:
    """A tokenizer, and by kind rows that almost fill `length`, of text more than fill it; their counts and lengths."""
    texts = load("pretrain", "train", WorldConfig(documents=2000))["text"]
    tokenizer = train_tokenizer(texts, 1024, length)
    tokenizer.save_pretrained(folder / "tokenizer")
    ids = tokenizer(" ".join(texts), add_special_tokens=False)["input_ids"]
    asked, said = length // 8, length - length // 8 - length // 16  # the template's own tokens need room too
    ask = [[{"role": "user", "content": tokenizer.decode(ids[91 * row :][:asked])}] for row in range(COUNT)]
    say = [[{"role": "assistant", "content": tokenizer.decode(ids[37 * row :][:said])}] for row in range(COUNT)]
    pairs = list(zip(ask, say, strict=True))
    rows = {
        "text": [{"text": tokenizer.decode(ids[37 * row :][: 2 * length])} for row in range(COUNT)],
        "sft": [{"messages": prompt + reply} for prompt, reply in pairs],
        "preference": [
            {"prompt": prompt, "chosen": reply, "rejected": say[-1 - row]} for row, (prompt, reply) in enumerate(pairs)
        ],
        "prompts": [{"prompt": prompt} for prompt in ask],
    }
    for kind, lines in rows.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole = statistics(tokenizer, [prompt + reply for prompt, reply in pairs])
    prompts = statistics(tokenizer, ask, add_generation_prompt=True)
    text = TokenStatistics(COUNT, 2 * length, 2 * length)
    return {"text": text, "sft": whole, "preference": whole, "prompts": prompts}


def statistics(tokenizer, conversations: list[list[dict]], **options) -> TokenStatistics:
    lengths = [len(one) for one in tokenizer.apply_chat_template(conversations, **options)["input_ids"]]
    return TokenStatistics(COUNT, sum(lengths) / COUNT, max(lengths))


def write_base(folder: Path, preset: str, args: argparse.Namespace) -> GPTConfig:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    shape = dict.fromkeys(("attention_dropout", "hidden_dropout", "embedding_dropout"), 0.0)
    shape |= {"max_position_embeddings": args.length, "vocab_size": VOCABULARY} | (TINY if args.quick else {})
    config = GPTConfig.from_preset(preset, **tokens, **shape)
    save_checkpoint(GPTForCausalLM(config), tokenizer, folder / preset)
    return config


def measure(folder: Path, preset: str, config: GPTConfig, row: str, lengths: dict, args) -> dict[str, float]:
    """Predicted and measured gigabytes; seconds of a PPO update."""
    stage, keys = ROWS[row]
    module = importlib.import_module(f"alignment.stages.{stage}")
    recipe = BASE | {"output_dir": str(folder / "run"), "model_name_or_path": str(folder / preset)} | keys
    recipe |= {"dataset_name": str(folder / f"{STAGES[stage].data}.jsonl")}
    recipe |= {"per_device_train_batch_size": args.batch, "per_device_eval_batch_size": args.batch}
    if stage == "ppo":
        recipe["max_completion_length"] = args.length // 8
    else:
        recipe["max_length"] = args.length
    configs = build_configs(module.CONFIGS, recipe, row)
    found = estimate(stage, configs, config, lengths[STAGES[stage].data], this_device(measure=False))
    framework = found.memory["framework"] if torch.cuda.is_available() else 0
    result = module.run(*configs)
    figures = {"predicted": (found.total_memory - framework) / 1e9, "measured": result.peak_memory_gb}
    if stage == "ppo":
        lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        last = [line for line in lines if "step_time" in line][-1]
        figures |= {name: last[name] for name in ("time/generate", "time/score", "time/train", "step_time")}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["gpt2", "gpt2-medium"])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="all that begin with one of these")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    args = parser.parse_args()
    if args.quick:
        args.presets, args.rows, args.batch, args.length = ["gpt2"], ["sft, LoRA", "reward", "ppo, value"], 1, 128
    rows, table = [row for row in ROWS if row.startswith(tuple(args.rows))], {}
    print(f"{'GB':40}{'predicted':>10}{'measured':>10}{'ratio':>7}  seconds of a PPO update")
    with TemporaryDirectory() as path:
        folder = Path(path)
        lengths = write_data(folder, args.length)
        for preset in args.presets:
            config = write_base(folder, preset, args)
            for row in rows:
                with contextlib.redirect_stdout(sys.stderr):  # Trainer prints
                    found = measure(folder, preset, config, row, lengths, args)
                found["ratio"] = found["predicted"] / found["measured"]
                table[f"{preset}: {row}"] = found
                sizes = f"{found['predicted']:>10.2f}{found['measured']:>10.2f}{found['ratio']:>7.2f}"
                seconds = {name: round(took, 3) for name, took in found.items() if "time" in name}
                print(f"{preset + ': ' + row:40}{sizes}  {seconds or ''}", flush=True)
                gc.collect()
                torch.cuda.empty_cache()
    worst = max(abs(found["ratio"] - 1) for found in table.values())
    targets = {"an estimate is off by at most this share": TOLERANCE}
    print(json.dumps({"figures": table, "targets": targets, "met": worst <= TOLERANCE, "machine": hardware()}))


if __name__ == "__main__":
    main()
