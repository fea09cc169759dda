"""Small valid recipes on files, with foreign tokenizers built here, and a way to check them."""

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import align

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<s>"]
WORDS = ["zebra", "river", "stone", "lamp", "cloud", "apple", "door", "kite", "bread", "horse"]


def foreign_tokenizer(template: str | None = CHATML, bos: bool = False, **tokens: str | None):
    """A byte-level tokenizer that is not ours; `bos` has it put <s> before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [*WORDS, *(f" {word.title()}" for word in WORDS)] * 3,
        trainers.BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    if bos:
        number = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
    named = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"} | ({"bos_token": "<s>"} if bos else {}) | tokens
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        model_max_length=256,
        **{name: token for name, token in named.items() if token},
    )


def write_model(folder: Path, tokenizer, **config: Any) -> Path:
    """What a check reads of a checkpoint: config.json and the tokenizer."""
    shape = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 256,
        "hidden_size": 8,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    }
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(shape | config))
    return folder


def some_fast(names: Iterable[Any], *fast: Any) -> list[Any]:
    """Cases for parametrize: those named are fast tests, the others slow ones of the same kind."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def conversations(count: int = 40) -> list[dict]:
    return [
        {"messages": [turn("user", f"Say {word} {number}."), turn("assistant", f"{word.title()} {number}.")]}
        for number, word in ((number, WORDS[number % len(WORDS)]) for number in range(count))
    ]


def preferences(count: int = 40) -> list[dict]:
    return [
        {
            "prompt": [turn("user", f"Say {WORDS[number % 10]} {number}.")],
            "chosen": [turn("assistant", f"Yes: {number}.")],
            "rejected": [turn("assistant", "No.")],
        }
        for number in range(count)
    ]


DATA = {
    "sft": conversations,
    "preference": preferences,
    "prompts": lambda: [{"prompt": row["prompt"]} for row in preferences()],
    "kto": lambda: [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in preferences(20)
        for side in ("chosen", "rejected")
    ],
    "text": lambda: [{"text": f"The {WORDS[number % 10]} number {number} is here."} for number in range(40)],
}
KIND_OF = {
    "sft": "sft",
    "reward": "preference",
    "dpo": "preference",
    "kto": "kto",
    "ppo": "prompts",
    "grpo": "prompts",
    "pretrain": "text",
}
EVERY = {"per_device_train_batch_size": 2, "num_train_epochs": 1, "save_strategy": "no", "report_to": "none"}
OWN = {
    "sft": {"max_length": 128},
    "reward": {"max_length": 128},
    "dpo": {"max_length": 128},
    "kto": {"max_length": 128},
    "ppo": {"max_completion_length": 16, "reward_funcs": ["rewards.py:brief"]},
    "grpo": {"max_completion_length": 16, "reward_funcs": ["rewards.py:brief"], "num_generations": 2},
    "pretrain": {"max_length": 128},
}


@dataclass
class Case:
    """One stage on a file, in a folder of its own; a test breaks one thing of it and checks it."""

    folder: Path
    stage: str = "sft"
    recipe: dict[str, Any] = field(default_factory=dict)
    rows: list[dict] | None = None
    template: str | None = CHATML
    tokens: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    data: str = "data.jsonl"

    def write(self) -> Path:
        """The recipe, its rows unless the test wrote the file, and the model."""
        self.folder.mkdir(exist_ok=True)
        rows = copy.deepcopy(self.rows) if self.rows is not None else DATA[KIND_OF[self.stage]]()
        path = self.folder / self.data
        if not path.exists():
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.folder / "rewards.py").write_text(
            "def brief(completions, **kwargs):\n    return [0.0] * len(completions)\n"
        )
        model = write_model(self.folder / "model", foreign_tokenizer(self.template, **self.tokens), **self.config)
        recipe = EVERY | OWN[self.stage] | {"dataset_name": str(path), "model_name_or_path": str(model)} | self.recipe
        if self.stage in ("ppo", "grpo") and "reward_funcs" not in self.recipe:
            recipe["reward_funcs"] = [f"{self.folder}/rewards.py:brief"]
        file = self.folder / f"{self.stage}.yaml"
        file.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not ...}))
        return file

    def check(self, capsys, *options: str) -> tuple[int, str]:
        """The exit code of `align check`, and all that it printed."""
        capsys.readouterr()
        code = align.main(
            ["check", str(self.write()), "--offline", "--output_dir", str(self.folder / "runs"), *options]
        )
        printed = capsys.readouterr()
        return code, printed.out + printed.err
