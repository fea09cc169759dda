"""How long does an update take: PPO here, the last PPO of TRL (1.12), and RLOO and GRPO of the TRL in use?

All contenders train the same random GPT (4 layers x 128, vocabulary 1000) on the same prompts of 8 to 16 tokens, with
the same reward model: 32 completions an update, micro-batches of 8, one pass over each rollout, KL to a reference at
0.05, fp32, one thread. RLOO and GRPO take 4 completions of each of 8 prompts, PPO one of each of 32. PPO here is shown
with each kind of critic; with LoRA all models are adapters on one base, so that less is trained.

In the workload "full" no completion of 32 tokens ends early, so that all have the same work: that is what the targets
are for. In "ending" completions have 64 tokens at most and about 18 in the mean: TRL 1.12 trains on all rows
at the length of the longest of the rollout, PPO here in micro-batches of rows of like length.

Repetitions are interleaved, each contender in a fresh process that leaves out its first update. Seconds are processor
time, so that what else the machine does counts little: medians over all updates, with quartiles. "generate" is spent in
model.generate, "train" lasts from an update's first forward pass with gradients to the end of its optimizer step,
"score" is all else. Memory is the peak of the process less what it had before it loaded the models, as Linux tells it.

TRL 1.12 calls gc.collect twice an update. That costs much the same whatever the size of the models, so it weighs much
here and little in earnest; the row "gc frozen" is without it (gc.freeze before training).

    make trl-1.12    # once: without it the rows of TRL 1.12 are left out
    python benchmarks/ppo_speed.py [--quick]

Seed 0, two cores of an Intel Xeon that others were using too, one thread, TRL 1.16.0, 2026-11-22, of commit a93a519,
5 repetitions of 6 updates, 15 minutes and more:

    full: completions of 32 tokens at most, none of which ends it
    seconds                 an update      quartiles  generate   score   train  peak MiB
    ours, separate critic       0.909    0.833-0.968     0.291   0.225   0.387       120
    ours, shared head           0.652    0.606-0.696     0.282   0.172   0.204        86
    ours, LoRA on one base      1.057    0.965-1.166     0.369   0.293   0.390        83
    trl 1.12 PPO                1.462    1.369-1.504     0.290   0.738   0.420       155
    trl 1.12 PPO, gc frozen     0.823    0.743-0.882     0.270   0.163   0.393       155
    trl RLOO                    0.761    0.726-0.822     0.269   0.226   0.273       121
    trl GRPO                    0.747    0.668-0.793     0.287   0.165   0.290       120

    ending: completions of 64 tokens at most, each the last with a probability of about 0.05
    ours, separate critic       1.336    1.190-1.443     0.608   0.381   0.337       146
    ours, shared head           1.052    0.936-1.167     0.565   0.296   0.189       106
    ours, LoRA on one base      1.736    1.653-1.868     0.830   0.518   0.396       109
    trl 1.12 PPO                2.308    2.226-2.448     0.676   0.937   0.709       211
    trl 1.12 PPO, gc frozen     1.606    1.532-1.656     0.656   0.295   0.658       209
    trl RLOO                    1.390    1.268-1.500     0.610   0.361   0.415       146
    trl GRPO                    1.222    1.099-1.316     0.558   0.229   0.401       147

The target against RLOO, at most 1.2 times its time, is met with a shared head (0.86) and with a separate critic (1.19).
The target against TRL 1.12, half its time at the same work, is missed: TRL 1.12 takes 1.61 times as long as PPO here,
and 1.73 times where completions end. Generating and training are three quarters of an update here, and at full length
TRL 1.12 is as fast at both. Without its garbage collections it takes 9% less time there than PPO here, which makes one
more pass to score (log-probabilities come from the pass that training uses, not from the sampler), and 20% more where
completions end.
"""

import argparse
import functools
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TokenizersBackend,
    Trainer,
    TrainerCallback,
)

from alignment.models.gpt import GPTConfig, GPTForCausalLM, GPTForSequenceClassification
from alignment.pipeline.records.environment import hardware

ROOT = Path(__file__).resolve().parents[1]
OLD_TRL = ROOT / ".trl-1.12"
SPECIAL = ["<pad>", "<eos>", "<unk>"]
VOCABULARY, MICRO_BATCH, ACCUMULATION = 1000, 8, 4
ROLLOUT = MICRO_BATCH * ACCUMULATION
PARTS = ("update", "generate", "score", "train")


# ---- What all contenders share ----


class Workload(NamedTuple):
    """How long completions are: at most `limit` tokens, each the last one with a probability of about `ends`."""

    limit: int
    ends: float


WORKLOADS = {"full": Workload(32, 0.0), "ending": Workload(64, 0.05)}


def save_models(folder: Path, ends: float, seed: int) -> None:
    """A policy and a reward model, each with the tokenizer beside it.

    Feature 0 of the embeddings is the same for all tokens, and the output rows of the special tokens read it alone:
    that makes their logits much the same everywhere, in whatever way a trainer computes them.
    """
    vocabulary = [*SPECIAL, *(f"w{index}" for index in range(VOCABULARY - len(SPECIAL)))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = TokenizersBackend(tokenizer_object=backend, padding_side="left", **names)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = GPTConfig(**sizes, max_position_embeddings=96, pad_token_id=0, eos_token_id=1, num_labels=1)
    torch.manual_seed(seed)
    policy, reward = GPTForCausalLM(config), GPTForSequenceClassification(config)
    with torch.no_grad():
        policy.model.embed_tokens.weight[:, 0] = 0.1
        policy.lm_head.weight[: len(SPECIAL)] = 0.0
        policy.lm_head.weight[: len(SPECIAL), 0] = -10.0
        if ends:
            words = torch.randint(len(SPECIAL), VOCABULARY, (16, 40))
            feature = policy.model(words).last_hidden_state[:, 8:, 0].median()
            # The logits of the words are close to 0, so they weigh VOCABULARY - 3 together.
            wanted = math.log(ends / (1 - ends) * (VOCABULARY - len(SPECIAL)))
            policy.lm_head.weight[SPECIAL.index("<eos>"), 0] = wanted / feature
    for name, model in [("policy", policy), ("reward", reward)]:
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def prompts(count: int, seed: int) -> list[str]:
    """Texts of words. The space at their end keeps a completion joined to it, as RLOO does, from changing the last."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, 17, (count,), generator=generator).tolist()
    words = [torch.randint(VOCABULARY - len(SPECIAL), (length,), generator=generator).tolist() for length in lengths]
    return ["".join(f"w{word} " for word in row) for row in words]


def shared_arguments(folder: Path, seed: int) -> dict[str, Any]:
    """What the configs of all contenders call by the same name."""
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "learning_rate": 1e-6,
        "temperature": 1.0,
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


# ---- A worker: one contender, measured from outside ----


def memory_mib(field: str) -> float:
    """VmRSS, what the process holds, or VmHWM, the most that it has held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


class Meter(TrainerCallback):
    """Loads the models that it then watches; `updates` has the seconds of each update, by PARTS."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.updates: list[dict[str, float]] = []
        self.generate, self.started, self.first_forward = 0.0, time.process_time(), None

    def load_policy(self) -> nn.Module:
        self.memory_before = memory_mib("VmRSS")
        policy = self.watched(AutoModelForCausalLM.from_pretrained(self.folder / "policy"))
        policy.generate = self.timed(policy.generate)
        return policy

    def load_scorer(self) -> nn.Module:
        return AutoModelForSequenceClassification.from_pretrained(self.folder / "reward")

    def watched(self, model: nn.Module) -> nn.Module:
        """A model that is trained."""
        model.base_model.register_forward_pre_hook(lambda *_: self.on_forward())
        return model

    def timed(self, generate: Callable) -> Callable:
        @functools.wraps(generate)
        def wrapper(*args, **kwargs):
            started = time.process_time()
            result = generate(*args, **kwargs)
            self.generate += time.process_time() - started
            return result

        return wrapper

    def on_forward(self) -> None:
        if torch.is_grad_enabled() and self.first_forward is None:
            self.first_forward = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.process_time()
        update, train = now - self.started, now - self.first_forward
        seconds = (update, self.generate, update - self.generate - train, train)
        self.updates.append(dict(zip(PARTS, seconds, strict=True)))
        self.generate, self.started, self.first_forward = 0.0, now, None


def our_ppo(meter: Meter, arguments: dict, texts: list[str], updates: int, **keys) -> Trainer:
    from peft import LoraConfig

    from alignment.trainers.ppo.config import PPOConfig
    from alignment.trainers.ppo.trainer import PPOTrainer

    mode = keys.get("critic_mode", "separate")
    policy, reward = meter.load_policy(), meter.load_scorer()
    args = PPOConfig(
        **arguments,
        max_steps=updates,
        max_completion_length=meter.limit,
        per_device_eval_batch_size=ROLLOUT,
        num_iterations=1,
        beta=0.05,
        **keys,
    )
    return PPOTrainer(
        policy,
        reward,
        args,
        Dataset.from_dict({"prompt": texts}),
        processing_class=AutoTokenizer.from_pretrained(meter.folder / "policy"),
        value_model=meter.watched(meter.load_scorer()) if mode == "separate" else None,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear") if mode == "lora" else None,
    )


def old_ppo(meter: Meter, arguments: dict, texts: list[str], updates: int) -> Trainer:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(meter.folder / "policy")
    policy, reward, critic = meter.load_policy(), meter.load_scorer(), meter.watched(meter.load_scorer())
    args = PPOConfig(
        **arguments,
        total_episodes=updates * ROLLOUT,
        response_length=meter.limit,
        local_rollout_forward_batch_size=ROLLOUT,
        stop_token="eos",
        num_ppo_epochs=1,
        kl_coef=0.05,
        num_sample_generations=0,
    )
    return PPOTrainer(
        args,
        tokenizer,
        policy,
        ref_model=None,
        reward_model=reward,
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": tokenizer(texts)["input_ids"]}),
    )


def critic_free(meter: Meter, arguments: dict, texts: list[str], updates: int, name: str) -> Trainer:
    """RLOO or GRPO."""
    import trl

    policy, reward = meter.load_policy(), meter.load_scorer()
    tokenizer = AutoTokenizer.from_pretrained(meter.folder / "policy")
    args = getattr(trl, f"{name}Config")(
        **arguments,
        max_steps=updates,
        max_completion_length=meter.limit,
        num_generations=4,
        num_iterations=1,
        beta=0.05,
    )
    return getattr(trl, f"{name}Trainer")(
        policy,
        reward,
        args,
        Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        reward_processing_classes=tokenizer,
    )


class Contender(NamedTuple):
    build: Callable[..., Trainer]
    keys: dict[str, Any]
    needs_old_trl: bool = False
    freezes_gc: bool = False  # what has been imported by then is spared by the collector


OURS, OLD, RLOO = "ours, separate critic", "trl 1.12 PPO", "trl RLOO"
CONTENDERS = {
    OURS: Contender(our_ppo, {}),
    "ours, shared head": Contender(our_ppo, {"critic_mode": "shared_head"}),
    "ours, LoRA on one base": Contender(our_ppo, {"critic_mode": "lora"}),
    OLD: Contender(old_ppo, {}, needs_old_trl=True),
    f"{OLD}, gc frozen": Contender(old_ppo, {}, needs_old_trl=True, freezes_gc=True),
    RLOO: Contender(critic_free, {"name": "RLOO"}),
    "trl GRPO": Contender(critic_free, {"name": "GRPO"}),
}


def work(name: str, folder: Path, limit: int, updates: int, seed: int) -> dict[str, Any]:
    """Seconds of each update but the first, by PARTS, and MiB at the peak."""
    torch.set_num_threads(1)
    meter = Meter(folder, limit)
    contender, texts = CONTENDERS[name], prompts((updates + 1) * ROLLOUT, seed)
    trainer = contender.build(meter, shared_arguments(folder, seed), texts, updates + 1, **contender.keys)
    trainer.add_callback(meter)
    if contender.freezes_gc:
        gc.freeze()
    trainer.train()
    return {"updates": meter.updates[1:], "peak_mib": memory_mib("VmHWM") - meter.memory_before}


# ---- The table ----


def run_worker(name: str, folder: Path, limit: int, args: argparse.Namespace) -> dict[str, Any]:
    path = [OLD_TRL, ROOT] if CONTENDERS[name].needs_old_trl else [ROOT]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    options = {"worker": name, "folder": folder, "limit": limit, "updates": args.updates, "seed": args.seed}
    command = [sys.executable, __file__, *(f"--{option}={value}" for option, value in options.items())]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{name} failed:\n{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the updates of all repetitions; quartiles for the whole of an update."""
    updates = [update for run in runs for update in run["updates"]]
    medians = {part: statistics.median(update[part] for update in updates) for part in PARTS}
    seconds = [update["update"] for update in updates]
    quartiles = statistics.quantiles(seconds, n=4)[::2] if len(seconds) > 1 else seconds * 2
    return medians | {"quartiles": quartiles, "peak_mib": statistics.median(run["peak_mib"] for run in runs)}


def print_table(figures: dict[str, dict[str, Any]]) -> None:
    print(f"{'seconds':24}{'an update':>9}{'quartiles':>15}{'generate':>10}{'score':>8}{'train':>8}{'peak MiB':>10}")
    for name, row in figures.items():
        quartiles = "{:.3f}-{:.3f}".format(*row["quartiles"])
        parts = f"{row['generate']:>10.3f}{row['score']:>8.3f}{row['train']:>8.3f}"
        print(f"{name:24}{row['update']:>9.3f}{quartiles:>15}{parts}{row['peak_mib']:>10.0f}")


def verdict(figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was aimed at, and whether it was reached; None where TRL 1.12 is missing."""
    fastest = min(figures[name]["update"] for name, one in CONTENDERS.items() if one.build is our_ppo)
    faster = figures[OLD]["update"] / figures[OURS]["update"] if OLD in figures else None
    slower = fastest / figures[RLOO]["update"]
    at_least, at_most = f"{OLD} over {OURS}, at least", f"fastest of ours over {RLOO}, at most"
    return {
        "ratios": {at_least: faster, at_most: slower},
        "targets": {at_least: 2.0, at_most: 1.2},
        "met": {at_least: None if faster is None else faster >= 2.0, at_most: slower <= 1.2},
    }


def measure(args: argparse.Namespace) -> None:
    names = [name for name, one in CONTENDERS.items() if (OLD_TRL / "trl").is_dir() or not one.needs_old_trl]
    for name in CONTENDERS:
        if name not in names:
            print(f"{name} is left out: no {OLD_TRL.name}. To have it, run: make trl-1.12")
    results = {}
    for workload, (limit, ends) in list(WORKLOADS.items())[: 1 if args.quick else None]:
        figures = measure_workload(names, limit, ends, args)
        ending = f"each the last with a probability of about {ends}" if ends else "none of which ends it"
        print(f"\n{workload}: completions of {limit} tokens at most, {ending}")
        print_table(figures)
        results[workload] = {"figures": figures} | verdict(figures)
    same_work = results["full"]
    others = {workload: result for workload, result in results.items() if workload != "full"}
    print(json.dumps(same_work | {"other workloads": others, "machine": hardware()}))


def measure_workload(names: list[str], limit: int, ends: float, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    runs: dict[str, list] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        save_models(Path(folder), ends, args.seed)
        for _ in range(args.repetitions):
            for name in names:
                runs[name].append(run_worker(name, Path(folder), limit, args))
    return {name: summary(of_one) for name, of_one in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    parser.add_argument("--worker", choices=CONTENDERS, help="run one contender on the models in --folder")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    if args.quick:
        args.repetitions = args.updates = 1
    if args.worker:
        print(json.dumps(work(args.worker, args.folder, args.limit, args.updates, args.seed)))
    else:
        measure(args)


if __name__ == "__main__":
    main()
