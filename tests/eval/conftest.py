"""A tiny tokenizer, tiny random models, and a user's own suite, built on the spot."""

import json
from pathlib import Path

import pytest
import torch
from saved_adapters import save_adapter

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["red", "green", "blue", "hat", "cup", "boat", "barn", "hill", "goat", "hen", "fox", "owl"]


def make_tokenizer():
    """Byte-level BPE over a few words, with end of text, turn tokens and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=TEMPLATE,
        model_max_length=512,
    )


def make_model(tokenizer, seed: int = 0, context: int = 512):
    """A two-layer Llama with random weights; replies may end with either stop token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    return model


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    return make_model(tokenizer)


@pytest.fixture(scope="session")
def long_model(tokenizer):
    """The same with room for long prompts."""
    return make_model(tokenizer, context=4096)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, tokenizer) -> Path:
    """`runs/demo` with checkpoints of the stages pretrain and sft."""
    run = tmp_path_factory.mktemp("runs") / "demo"
    for seed, stage in enumerate(["pretrain", "sft"]):
        make_model(tokenizer, seed).save_pretrained(run / stage / "checkpoint")
        tokenizer.save_pretrained(run / stage / "checkpoint")
    return run


@pytest.fixture(scope="session")
def adapter(checkpoints, tokenizer, tmp_path_factory) -> Path:
    """An adapter on the pretrain checkpoint that changes much; its stop tokens are the chat's."""
    folder = tmp_path_factory.mktemp("lora") / "run" / "sft" / "checkpoint"
    save_adapter(checkpoints / "pretrain/checkpoint", tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def suite(tmp_path_factory) -> str:
    """A user's own suite in one YAML file and one JSONL file."""
    folder = tmp_path_factory.mktemp("my_suite")
    rows = []
    for i in range(24):
        question = f"What has the {WORDS[i % 12]}?" + " Say it." * (i % 5)
        rows.append({"question": question, "answer": WORDS[(5 * i) % 12], "cluster": i // 3})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "objects.yaml").write_text(
        f"""task: objects
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
    )
    return str(folder / "objects.yaml")
