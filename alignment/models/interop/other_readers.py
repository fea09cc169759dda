"""What readers other than this project's transformers look for in an exported checkpoint.

transformers 5 has names of its own for RoPE and for tokenizers. Earlier versions, and readers that follow them (vLLM,
SGLang, llama.cpp), look for the earlier names, and take a default where they find none: a `rope_theta` of 10,000.
transformers 5 reads both.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from alignment.durable.atomic import write_json

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
# transformers 5's class of a tokenizer that is all in tokenizer.json -> the name that earlier versions have for it.
EARLIER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}

# llama.cpp's names (`tokenizer.ggml.pre`) of the expressions by which byte-level tokenizers split a text.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    GPT2: "gpt-2",
    MODERN.format(digits=r"\p{N}{1,3}"): "llama-bpe",
    MODERN.format(digits=r"\p{N}"): "qwen2",
}


def add_earlier_names(folder: Path) -> None:
    """Add the names of transformers 4 to the files of an exported checkpoint, with the same values."""
    _rewritten(folder / CONFIG, with_earlier_rope)
    _rewritten(folder / TOKENIZER_CONFIG, with_earlier_class)


def _rewritten(file: Path, change: Any) -> None:
    if file.is_file():
        write_json(file, change(json.loads(file.read_text(encoding="utf-8"))))


def with_earlier_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Add `rope_theta` and, for scaled RoPE, `rope_scaling`; for Llama 3 also the context that llama.cpp reads."""
    rope = config.get("rope_parameters")
    if not rope:
        return config
    earlier = {"rope_theta": rope["rope_theta"]}
    if rope["rope_type"] != "default":
        earlier["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    if rope["rope_type"] == "llama3":
        earlier["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return config | earlier


def with_earlier_class(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Name the tokenizer's class and its further special tokens as transformers 4 does."""
    kind = tokenizer["tokenizer_class"]
    earlier = tokenizer | {"tokenizer_class": EARLIER_CLASSES.get(kind, kind)}
    if isinstance(earlier.get("extra_special_tokens"), list):
        earlier["additional_special_tokens"] = earlier.pop("extra_special_tokens")
    return earlier


def llama_cpp_pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return llama.cpp's name of the way in which a tokenizer splits a text before BPE; None if it has none here.

    llama.cpp's converter finds the name by a hash of the token ids of a fixed text, which depends on the vocabulary
    (https://github.com/ggml-org/llama.cpp/pull/6920): it knows no tokenizer that is not in its list, even if the
    tokenizer splits as one in the list does.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    steps = json.loads(backend.to_str()) if backend is not None else {}
    pre = steps.get("pre_tokenizer") or {}
    if steps.get("normalizer") is not None or (steps.get("model") or {}).get("type") != "BPE":
        return None
    parts = pre.get("pretokenizers", [pre])
    if [part.get("type") for part in parts] == ["ByteLevel"] and parts[0]["use_regex"]:
        return None if parts[0]["add_prefix_space"] else PRE_TOKENIZERS[GPT2]
    if [part.get("type") for part in parts] == ["Split", "ByteLevel"] and not parts[1]["use_regex"]:
        plain = parts[0]["behavior"] == "Isolated" and not parts[0]["invert"] and not parts[1]["add_prefix_space"]
        return PRE_TOKENIZERS.get(parts[0]["pattern"].get("Regex", "")) if plain else None
    return None
