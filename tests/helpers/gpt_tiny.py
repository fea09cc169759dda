"""Tiny GPTs of every family of the lineage, random but far from idle."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback

from alignment.models.gpt import GPTConfig, GPTForCausalLM

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
WORDS = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODERN = {**SIZES, **TOKENS, "num_key_value_heads": 2}
CLASSIC = {
    **SIZES,
    **TOKENS,
    "norm_type": "layernorm",
    "position_embedding_type": "learned",
    "mlp_type": "mlp",
    "hidden_act": "gelu_new",
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": True,
}
EXPERTS = {**MODERN, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
BANDED = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4}
FAMILIES = {
    "gpt1": {**CLASSIC, "norm_placement": "post"},
    "gpt2": CLASSIC,
    "gpt3": {**CLASSIC, **BANDED},
    "modern": MODERN,
    "qk-norm": {**MODERN, "qk_norm": True, "num_key_value_heads": 1, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh"},
    "sliding": {**MODERN, "sliding_window": 5, "mlp_type": "mlp", "hidden_act": "relu2"},
    "yarn": {
        **MODERN,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    # Beyond its 64 positions dynamic scaling makes a cache differ from a whole pass: docs/model.md.
    "dynamic": {**MODERN, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    "conv": {**MODERN, "qkv_conv_size": 4, "qk_norm": True},
    "sinks": {**MODERN, **BANDED, "attention_sinks": True},
    "softcap": {**MODERN, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "moe": EXPERTS,
    "moe-shared": {
        **EXPERTS,
        "num_shared_experts": 2,
        "mlp_layer_types": ["dense", "sparse"],
        "norm_topk_prob": False,
    },
}


def randomise(model, seed=0):
    """Large random values in every parameter, so that attention is far from uniform and no bias or norm idles."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def build(shape, cls=GPTForCausalLM, **changes):
    torch.manual_seed(0)
    return randomise(cls(GPTConfig(**{**shape, **changes})))


def token_ids(*shape, seed=0):
    return torch.randint(3, SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(first, second):
    assert first.keys() == second.keys() and first
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def save_with_letters(model, folder) -> str:
    """Save the model with a word-level tokenizer of letters; the path of both."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def learn(model, ids, steps=15) -> list[float]:
    """Train what is trainable on one batch; the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class AttentionWatch(TrainerCallback):
    """Remembers which attention each training begins with."""

    def __init__(self):
        self.seen = []

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.seen.append(model.config._attn_implementation)
