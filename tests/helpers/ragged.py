"""Tiny models, tokenizers and ragged conversations that invariances are tried on.

Every row differs from the others in the lengths of its prompt and its reply: long prompts have short replies, short
prompts long ones, one reply is its end token alone, and some are cut off.
"""

import copy
from functools import cache
from pathlib import Path

import gpt_tiny
import torch
from check_cases import CHATML, WORDS, foreign_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import alignment.tokenization
from alignment.models.gpt import GPTConfig, GPTForCausalLM, GPTForSequenceClassification
from alignment.tokenization import train_tokenizer

CONTEXT = 128
LONGEST = 12  # tokens of a completion
TOKENIZERS = ("ours", "chatml", "pad-is-eos")
MODELS = ("gpt", "learned", "moe", "llama")
SHIPPED = Path(alignment.tokenization.__file__).parent / "turns/chatml.jinja"
# ChatML without the newline after a turn: where the end token pads too, rows end with tokens of padding's id.
ENDED = CHATML.replace("<|im_end|>{% endgeneration %}\n", "<|im_end|>{% endgeneration %}").replace(
    "<|im_end|>\n", "<|im_end|>"
)
END = {"ours": "<|end|>", "chatml": "<|im_end|>", "pad-is-eos": "<|im_end|>"}
AFTER = {"ours": "", "chatml": "\n", "pad-is-eos": ""}  # what the template writes after a reply's end
# (prompt, reply, whether it ended)
TALKS = [
    ("Kite?", "Zebra river stone lamp cloud.", True),
    ("zebra river stone lamp cloud apple door kite bread horse zebra river stone", "Door.", True),
    ("lamp", "bread horse kite door zebra river lamp cloud apple stone zebra river", False),
    ("Say a river, a stone and a lamp: zebra, door and cloud and apple and bread.", "", True),
    ("horse kite", "Apple bread", True),
    ("cloud cloud cloud cloud cloud cloud cloud cloud cloud", "x", True),
    ("stone", "river zebra river zebra river zebra river zebra kite kite kite kite kite", False),
    ("bread and horse", " apple?", True),
]


@cache
def _tokenizer(name: str):
    if name == "ours":
        text = " ".join([*WORDS, *(word.title() for word in WORDS), "Say", "and"])
        return train_tokenizer([text] * 20, vocab_size=330, model_max_length=CONTEXT)
    if name == "chatml":
        return foreign_tokenizer(SHIPPED.read_text())
    return foreign_tokenizer(ENDED, pad_token="<|im_end|>")


def tokenizer(name: str):
    """One of TOKENIZERS; a copy, as trainers change what they are given."""
    return copy.deepcopy(_tokenizer(name))


def model(kind: str, words, head: str = "lm", seed: int = 0, **changes):
    """A causal LM or a classifier of one label, with random weights far from idle."""
    special = {"vocab_size": len(words), "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    special |= {"bos_token_id": words.bos_token_id, "max_position_embeddings": CONTEXT}
    special |= {"num_labels": 1} if head == "score" else {}
    torch.manual_seed(seed)
    if kind == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(**special, **sizes, **changes)
        made = (LlamaForCausalLM if head == "lm" else LlamaForSequenceClassification)(config)
    else:
        shape = {"gpt": gpt_tiny.MODERN, "learned": gpt_tiny.CLASSIC, "moe": gpt_tiny.EXPERTS}[kind]
        # Without its routers' losses, which are no sum over rows: test_router_losses.py has them.
        silent = {"router_aux_loss_coef": 0.0, "router_z_loss_coef": 0.0, "output_router_logits": False}
        options = {**shape, **special, **(silent if kind == "moe" else {}), **changes}
        made = (GPTForCausalLM if head == "lm" else GPTForSequenceClassification)(GPTConfig(**options))
    return gpt_tiny.randomise(made, seed)


def lora(**options) -> LoraConfig:
    """An adapter on what every model here has."""
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **options)


def adapted(base, seed: int = 1, *others: str, **options):
    """The base under an adapter that does something, and under others beside it."""
    torch.manual_seed(seed)
    result = get_peft_model(base, lora(**options))
    for name in others:
        result.add_adapter(name, lora(**options))
    result.set_adapter("default")
    return stirred(result, seed)


@torch.no_grad()
def stirred(module, seed: int, part: str = "lora_B", std: float = 0.2):
    """The module with random numbers in some of its parameters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if part in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def completion_ids(name: str, words, reply: str, ended: bool) -> list[int]:
    """What a policy samples as a reply: its text and end token, or as many tokens as it may."""
    ids = words(reply, add_special_tokens=False)["input_ids"]
    if ended:
        return [*ids[: LONGEST - 1], words.convert_tokens_to_ids(END[name])]
    assert len(ids) >= LONGEST
    return ids[:LONGEST]


def prompt_ids(words, prompt: str) -> list[int]:
    return words.apply_chat_template(ask(prompt), add_generation_prompt=True, return_dict=True)["input_ids"]


def completions(name: str, words, talks=TALKS) -> dict[tuple[int, ...], list[int]]:
    """Token ids of each talk's completion, by those of its prompt."""
    return {tuple(prompt_ids(words, prompt)): completion_ids(name, words, *reply) for prompt, *reply in talks}
