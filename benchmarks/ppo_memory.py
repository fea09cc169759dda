"""What does PPO cost in memory beside SFT, when policy, critic, reference and reward share one base?

Each row trains adapters of the same shape on the same base, in micro-batches of as many sequences of the same length,
in a process of its own, and loads what it needs from paths. SFT is TRL's; the critic of PPO is an adapter on the
policy's base, a head on the policy's trunk, or apart: then policy, reference, reward model and critic are four models,
an adapter each on a base of its own. (Trained in full, with Adam, such four take 40 bytes a parameter, 14 GB here.)

    python benchmarks/ppo_memory.py [--vocab_size 151936] [--activation_checkpointing] [--quick]

Seed 0, two cores of an Intel Xeon, one thread, TRL 1.16.0, 2026-11-22, of commit a93a519; GPT-2 medium (355M) in fp32,
2 sequences of 128 tokens, 2 optimizer steps; GB, 4 minutes:

                                      before  loading  training  over before  times SFT
    LoRA SFT                            0.49     0.58      3.79         3.30       1.00
    LoRA PPO, adapters on one base      0.49     0.65      4.06         3.57       1.08
    LoRA PPO, value head on the policy  0.49     0.65      3.45         2.96       0.90
    LoRA PPO, four models               0.49     3.52      9.18         8.69       2.63

The target, at most 1.3 times SFT with all on one base, is met; with a vocabulary of 151,936 too (1.16, 1.00, 2.92).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, TokenizersBackend, Trainer
from trl import SFTConfig, SFTTrainer

from alignment.callbacks.clock import peak_rss, reset_peak_rss
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.models.loading import load_trainable
from alignment.pipeline.records.environment import hardware
from alignment.stages.shared.stage_run import last_logged
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.trainer import PPOTrainer

ROWS = {  # PPO's by their critic_mode
    "sft": "LoRA SFT",
    "lora": "LoRA PPO, adapters on one base",
    "shared_head": "LoRA PPO, value head on the policy",
    "separate": "LoRA PPO, four models",
}
LIMIT = 1.3
PROMPT = 16
PAD, EOS = 0, 1
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


# ---- What the rows load ----


def write_models(folder: Path, vocab_size: int, quick: bool, seed: int) -> None:
    """Random weights: a base, and on it the adapters of an SFT model and of a reward model, each with the tokenizer."""
    torch.manual_seed(seed)
    base, tokenizer = folder / "base", word_tokenizer(vocab_size)
    model = GPTForCausalLM(config(vocab_size, quick))
    never_end(model)
    model.save_pretrained(base)
    for name, kind, options in [
        ("sft", "causal-lm", {"task_type": "CAUSAL_LM"}),
        ("reward", "sequence-classification", {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}),
    ]:
        model = get_peft_model(load_trainable(base, kind), lora(init_lora_weights=False, **options))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tokenizer.save_pretrained(base)


def config(vocab_size: int, quick: bool) -> GPTConfig:
    """GPT-2 medium. No dropout: PPO turns it off, and its masks would make SFT the larger."""
    dropouts = dict.fromkeys(["attention_dropout", "hidden_dropout", "embedding_dropout"], 0.0)
    tokens = {"vocab_size": vocab_size, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
    return GPTConfig.from_preset("gpt2-medium", **dropouts, **tokens, **(TINY if quick else {}))


def word_tokenizer(size: int) -> TokenizersBackend:
    vocabulary = {"<pad>": PAD, "<eos>": EOS} | {f"w{index}": index for index in range(2, size)}
    backend = Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TokenizersBackend(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def lora(**options) -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", **options)


@torch.no_grad()
def never_end(model: GPTForCausalLM) -> None:
    """Make the end-of-sequence token's logit -hidden_size whatever was read, so that completions have full length.

    What the last LayerNorm gives sums to the sum of its biases: hidden_size once they are 1. The token's weights are
    -1, and no adapter is on either.
    """
    model.model.norm.bias.fill_(1.0)
    model.get_output_embeddings().weight[EOS] = -1.0


# ---- A row, in a process of its own ----


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The highest resident sizes in GB: before anything is loaded, while loading, while training."""
    reset_peak_rss()
    before = peak_rss()
    trainer = sft_trainer(args) if args.row == "sft" else ppo_trainer(args)
    loading = peak_rss()
    reset_peak_rss()
    trainer.train()
    training = peak_rss()
    shortest = last_logged(trainer, "completions/min_length").get("completions/min_length")
    if args.row != "sft" and shortest < args.length - PROMPT:
        raise SystemExit("a completion ended early: the lengths are not SFT's")
    return {"before": before / 1e9, "loading": loading / 1e9, "training": training / 1e9}


def sft_trainer(args: argparse.Namespace) -> Trainer:
    rows = prompts(args).map(lambda row: {"completion": " w2" * args.length})  # cut at max_length
    return SFTTrainer(
        load_trainable(f"{args.folder}/base", "causal-lm"),
        args=SFTConfig(**arguments(args), max_length=args.length),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(f"{args.folder}/base"),
        peft_config=lora(task_type="CAUSAL_LM"),
    )


def ppo_trainer(args: argparse.Namespace) -> Trainer:
    """Rollouts are scored in micro-batches, as they are trained on."""
    own = {
        "critic_mode": args.row,
        "max_completion_length": args.length - PROMPT,
        "steps_per_generation": args.rollout,
        "num_iterations": 1,
        "per_device_eval_batch_size": args.batch,
    }
    policy, reward, reference = f"{args.folder}/sft", f"{args.folder}/reward", None
    if args.row == "separate":
        reward, reference = load_trainable(reward, "sequence-classification"), policy
    return PPOTrainer(
        policy,
        reward,
        PPOConfig(**arguments(args), **own),
        train_dataset=prompts(args),
        processing_class=AutoTokenizer.from_pretrained(policy),
        ref_model=reference,
    )


def prompts(args: argparse.Namespace) -> Dataset:
    texts = [" ".join(f"w{2 + (row + place) % 32}" for place in range(PROMPT)) for row in range(64)]
    return Dataset.from_dict({"prompt": texts})


def arguments(args: argparse.Namespace) -> dict:
    """What SFT and PPO have in common."""
    return {
        "output_dir": f"{args.folder}/trainer",
        "per_device_train_batch_size": args.batch,
        "max_steps": args.steps,
        "learning_rate": 1e-4,
        "activation_checkpointing": args.activation_checkpointing,
        "seed": args.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
    }


# ---- The table ----


def run(args: argparse.Namespace, row: str, folder: str) -> dict[str, float]:
    """What a process measures, and with it the figure: its peak over what it held before anything was loaded."""
    names = ("batch", "length", "rollout", "steps", "seed")
    options = {"row": row, "folder": folder} | {name: getattr(args, name) for name in names}
    flags = ["--activation_checkpointing"] * args.activation_checkpointing
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in options.items()), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{ROWS[row]} failed:\n{done.stderr[-3000:]}")
    sizes = json.loads(done.stdout.splitlines()[-1])
    return sizes | {"figure": max(sizes["loading"], sizes["training"]) - sizes["before"]}


def show(table: dict[str, dict[str, float]]) -> None:
    print(f"{'':36}{'before':>8}{'loading':>9}{'training':>10}{'over before':>13}{'times SFT':>11}")
    for row, sizes in table.items():
        totals = f"{sizes['before']:>8.2f}{sizes['loading']:>9.2f}{sizes['training']:>10.2f}"
        print(f"{ROWS[row]:36}{totals}{sizes['figure']:>13.2f}{sizes['times_sft']:>11.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=128, help="tokens of prompt and completion together")
    parser.add_argument("--rollout", type=int, default=2, help="micro-batches in a rollout, an optimizer step each")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--vocab_size", type=int, default=50257)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--activation_checkpointing", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    for name in ("row", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)  # of a row's process
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measure(args)))
        return
    if args.quick:
        args.length, args.steps, args.vocab_size = 24, 1, 64
    with TemporaryDirectory() as folder:
        write_models(Path(folder), args.vocab_size, args.quick, args.seed)
        table = {row: run(args, row, folder) for row in ROWS}
    for sizes in table.values():
        sizes["times_sft"] = sizes["figure"] / table["sft"]["figure"]
    print(f"GB, {args.batch} sequences of {args.length} tokens, {args.steps} optimizer steps (seed {args.seed})")
    show(table)
    targets = {"LoRA PPO on one base takes at most this many times what LoRA SFT takes": LIMIT}
    result = {"figures": table, "targets": targets, "met": table["lora"]["times_sft"] <= LIMIT}
    print(json.dumps(result | {"machine": hardware()}))


if __name__ == "__main__":
    main()
