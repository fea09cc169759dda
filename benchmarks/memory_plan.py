"""How far off is the memory that `align check` foretells, on a CPU?

Each row runs a stage (LoRA for one optimizer step, in full for two) in a process of its own, on random weights of a
Llama of 264M parameters and rows of exactly the length, and compares the highest resident size, less what was resident
before the model was loaded, with what alignment/estimate/estimate.py says (less its share for the framework). The model
called wide has 34M, nearly all of them embeddings of 256,000 tokens, so that its logits outweigh it.

    python benchmarks/memory_plan.py [--only ROW ...] [--quick]

Seed 0, two cores of an AMD EPYC, shared and busy, one thread, 2026-11-26, from the tenth row on 2026-11-27; GB:

                                               foretold measured    off
    sft, LoRA, 2 x 128                             2.47     2.52    -2%
    sft, LoRA, dropout, 2 x 128                    2.67     2.82    -5%
    dpo, LoRA, 1 x 128                             2.47     2.54    -3%
    sft, LoRA, checkpointing, 2 x 128              1.83     2.04   -10%
    reward, LoRA, 1 x 128                          1.84     1.92    -4%
    ppo, LoRA, 2 x 64                              2.01     1.84    +9%
    sft, full, 1 x 64                              4.38     4.57    -4%
    sft, full, 1 x 128                             4.54     4.68    -3%
    sft, LoRA, 1 x 256                             2.47     2.54    -3%
    dpo, LoRA, checkpointing, 1 x 128              1.83     2.08   -12%
    reward, full, 1 x 64                           4.42     4.44     0%
    sft, LoRA, 2 x 64                              2.00     1.96    +2%
    sft, full, checkpointing, 1 x 128              4.36     4.51    -3%
    dpo, full, 1 x 64                              5.59     5.84    -4%
    pretrain, full, 1 x 128                        4.47     4.85    -8%
    pretrain, full, Muon, 1 x 128                  3.55     4.00   -11%
    pretrain, full, wide, 1 x 512                  2.13     2.13     0%
    pretrain, full, chunks, wide, 1 x 512          0.96     0.89    +7%
    grpo, LoRA, 2 x 64                             1.95     1.76   +11%
    sft, LoRA, bfloat16, 2 x 128                   1.62     1.72    -6%

The target, within 15%, is met in all of them; the last was 19% too low before it counted what TRL's output layer copies
to 32 bit. What is foretold was adjusted to the first six (from 20 to 30% too low), so that they are no test of it; the
others were not looked at before. Most is foretold too little.
"""

import argparse
import json
import logging
import multiprocessing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment.callbacks.clock import peak_rss, reset_peak_rss
from alignment.estimate.compute import this_device
from alignment.estimate.estimate import estimate
from alignment.estimate.workload import TokenStatistics
from alignment.models.loading import load_config
from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.records.environment import hardware
from alignment.pipeline.stage_spec import stage_module
from alignment.stages import STAGES

LIMIT = 0.15
SEED = 0
LORA = {"use_peft": True, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
DROPOUT = LORA | {"lora_dropout": 0.05}
CHECKPOINTED = {"activation_checkpointing": True}
BFLOAT16 = {"dtype": "bfloat16"}
MUON, CHUNKS = {"muon": True}, {"loss_chunk_size": 64}
# (stage, keys of the recipe, sequences a micro-batch, tokens a sequence, and the model where it is not the Llama)
ROWS = [
    ("sft", LORA, 2, 128),
    ("sft", DROPOUT, 2, 128),
    ("dpo", LORA, 1, 128),
    ("sft", LORA | CHECKPOINTED, 2, 128),
    ("reward", LORA, 1, 128),
    ("ppo", LORA, 2, 64),
    ("sft", {}, 1, 64),
    ("sft", LORA, 1, 256),
    ("dpo", LORA | CHECKPOINTED, 1, 128),
    ("reward", {}, 1, 64),
    ("sft", LORA, 2, 64),
    ("sft", CHECKPOINTED, 1, 128),
    ("dpo", {}, 1, 64),
    ("sft", {}, 1, 128),
    ("pretrain", {}, 1, 128),
    ("pretrain", MUON, 1, 128),
    ("pretrain", {}, 1, 512, "wide"),
    ("pretrain", CHUNKS, 1, 512, "wide"),
    ("sft", LORA | BFLOAT16, 2, 128),
    ("grpo", LORA, 2, 64),
]
SIZES = {"hidden_size": 1024, "num_hidden_layers": 18, "num_attention_heads": 16, "intermediate_size": 2816}
# Of almost nothing but embeddings and logits.
WIDE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
MODELS = {"model": (SIZES, 32_000), "wide": (WIDE, 256_000)}  # with their vocabularies
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }} <end> {% endgeneration %}"
    "{% else %}{{ message['content'] }} <end> {% endif %}{% endfor %}"
)


def write_model(folder: Path, shape: dict, size: int) -> None:
    """Random weights, with a tokenizer whose every word is a token."""
    words = ["<pad>", "<eos>", "<end>", *(f"w{number}" for number in range(size - 3))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", extra_special_tokens=["<end>"]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=size, max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, **shape
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_rows(stage: str, file: Path, length: int) -> None:
    """Conversations, pairs or prompts that are each of the length, their end tokens included."""
    question, reply = [" ".join(["w1"] * (length // 2 - 1)), " ".join(["w2"] * (length - length // 2 - 1))]
    asked = [{"role": "user", "content": question}]
    kinds = {
        "pretrain": {"text": " ".join(["w1"] * (length - 1))},
        "sft": {"messages": [*asked, {"role": "assistant", "content": reply}]},
        "ppo": {"prompt": asked},
        "grpo": {"prompt": asked},
    }
    pair = {"chosen": reply, "rejected": reply.replace("w2", "w3")}
    pair = {"prompt": asked} | {side: [{"role": "assistant", "content": text}] for side, text in pair.items()}
    file.write_text("".join(json.dumps(kinds.get(stage, pair)) + "\n" for _ in range(16)), encoding="utf-8")


def measure(folder: Path, stage: str, keys: dict, sequences: int, length: int, model: str = "model") -> dict:
    """Run a stage here; bytes at the peak over those before, and what was foretold."""
    module = stage_module(stage, "alignment.stages")
    write_rows(stage, folder / f"{stage}.jsonl", length)
    recipe = {
        "model_name_or_path": str(folder / model),
        "dataset_name": str(folder / f"{stage}.jsonl"),
        "output_dir": str(folder / "out"),
        "eval_share": 0,
        "per_device_train_batch_size": sequences,
        "per_device_eval_batch_size": 1,
        "max_steps": 1 if keys.get("use_peft") else 2,  # the moments of all weights come with the first step
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": SEED,
    } | keys
    if STAGES[stage].samples:
        recipe |= {"max_completion_length": length - length // 2, "steps_per_generation": 1, "num_iterations": 2}
        recipe |= {"num_generations": sequences, "beta": 0.1} if stage == "grpo" else {}
        recipe |= {"reward_funcs": ["reward_models.rules:length_penalty?each=0.1"]}
    else:
        recipe["max_length"] = length
    configs = build_configs(module.CONFIGS, recipe, "here")
    tokens = length // 2 if STAGES[stage].samples else length
    statistics = TokenStatistics(16, tokens, tokens)
    said = estimate(stage, configs, load_config(folder / model), statistics, this_device(measure=False))
    reset_peak_rss()
    before = peak_rss()
    module.run(*configs)
    foretold = said.total_memory - said.memory["framework"]
    return {"measured": peak_rss() - before, "foretold": foretold, "parts": said.memory, "parameters": said.parameters}


def describe(stage: str, keys: dict, sequences: int, length: int, model: str = "model") -> str:
    words = ["full" if "use_peft" not in keys else "LoRA, dropout" if keys["lora_dropout"] else "LoRA"]
    named = {"activation_checkpointing": "checkpointing", "muon": "Muon", "loss_chunk_size": "chunks"}
    words += [word for key, word in named.items() if key in keys] + list(filter(None, [keys.get("dtype")]))
    words += [model] if model != "model" else []
    return f"{stage}, {', '.join(words)}, {sequences} x {length}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rows of a tiny model, to see that it runs")
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of the rows to run, from 0")
    args = parser.parse_args()
    chosen = args.only or ([0, 2] if args.quick else range(len(ROWS)))
    figures = {}
    # A process for each row, with the imports done.
    processes = multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1)
    with TemporaryDirectory() as folder, processes:
        for name in {(*ROWS[number], "model")[4] for number in chosen}:
            processes.apply(write_model, (Path(folder) / name, *((TINY, 256) if args.quick else MODELS[name])))
        print(f"{'GB':42}{'foretold':>9}{'measured':>9}{'off':>7}")
        for number in chosen:
            name = describe(*ROWS[number])
            found = processes.apply(measure, (Path(folder), *ROWS[number]))
            off = found["foretold"] / found["measured"] - 1
            figures[name] = {"foretold": found["foretold"], "measured": found["measured"], "off": round(off, 3)}
            logging.info("%s: %s", name, {part: round(size / 1e9, 3) for part, size in found["parts"].items()})
            print(f"{name:42}{found['foretold'] / 1e9:9.2f}{found['measured'] / 1e9:9.2f}{off:+7.0%}", flush=True)
    met = args.quick or all(abs(row["off"]) <= LIMIT for row in figures.values())
    targets = {} if args.quick else {"off": LIMIT}
    print(json.dumps({"figures": figures, "targets": targets, "met": met, "machine": hardware()}))


if __name__ == "__main__":
    main()
