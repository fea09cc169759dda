"""Base models as users bring them: foreign architectures, tokenizers without a chat template."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # so that an output layer that is not trained can be sure of a token
}
ANSWERS = {"one": "red", "two": "blue", "three": "green"}
ROWS = [
    {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    for question, answer in ANSWERS.items()
] * 4


def tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """Byte-level, with <s> and </s> and further special tokens, without a template and a token to pad with."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *special]
    trainer = trainers.BpeTrainer(special_tokens=tokens, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*ANSWERS, *ANSWERS.values()] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", extra_special_tokens=list(special), **named
    )


def llama(folder, spare_rows: int = 0, tied: bool = False, *special: str, **sizes: int):
    """A Llama of untied embeddings unless told otherwise, with rows to spare or none."""
    words = tokenizer(*special)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(words) + spare_rows, tie_word_embeddings=tied, **SIZES | sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def gemma(folder):
    """A Gemma 3, whose vocabulary has its turn markers and <pad>."""
    words = tokenizer("<pad>", "<start_of_turn>", "<end_of_turn>", pad_token="<pad>")
    torch.manual_seed(0)
    Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=len(words), **SIZES)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_inputs(folder: Path) -> dict[str, Path]:
    """Files of the kinds that recipes/lora-1gpu asks for, by the names of its inputs."""
    sums = [{"question": f"What is {n} and {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(40)]
    tasks = [{"instruction": f"Name a colour, {n}.", "instances": [{"input": "", "output": "red"}]} for n in range(40)]
    said = {"chosen": "Yes", "rejected": "No"}
    pairs = [{side: f"\n\nHuman: {n}?\n\nAssistant: {text}." for side, text in said.items()} for n in range(40)]
    files = {}
    for name, rows in {"math": sums, "instructions": tasks, "preferences": pairs}.items():
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files
