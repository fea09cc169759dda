"""Foreign checkpoints and adapters as they reach a user: incomplete, damaged, of another kind, on another base.

Each case is a function that changes an intact folder.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import base_models
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

Change = Callable[[Path], object]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1234567\n"
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
NAN = float("nan")
REMOVED = object()
SMALL = {"vocab_size": 30, "num_hidden_layers": 1, "hidden_size": 32}
ENCODER = {"num_attention_heads": 2, "intermediate_size": 32}


SHARED = {"the input layer": ["embed_tokens"], "the output layer": ["lm_head"], "both": ["embed_tokens", "lm_head"]}
# Adapters on tied embeddings -> PEFT's settings: what merges into shared weights would change the other layer too.
TIED = {
    **{f"LoRA on {name}": {"target_modules": [*layers, "q_proj"]} for name, layers in SHARED.items()},
    **{f"saved {name}": {"target_modules": ["q_proj"], "modules_to_save": layers} for name, layers in SHARED.items()},
    "LoRA on the output layer alone": {"target_modules": ["lm_head"]},
    "tied LoRA": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "token rows": {"target_modules": ["q_proj"], "trainable_token_indices": [3]},
}


def make_parts(folder: Path) -> Path:
    """Write the intact models that all cases start from: base, other bases, shards, a reward model."""
    base_models.llama(folder / "base", 8)
    base_models.llama(folder / "tied", 8, True)
    base_models.llama(folder / "wide", 8, hidden_size=64)
    base_models.llama(folder / "rows", 16)
    words = base_models.tokenizer()
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_embd=32, n_layer=2, n_head=2, n_positions=64)).save_pretrained(
        folder / "gpt2"
    )
    words.save_pretrained(folder / "gpt2")
    model = LlamaForCausalLM.from_pretrained(folder / "base")
    model.save_pretrained(folder / "shards", max_shard_size="20KB")
    words.save_pretrained(folder / "shards")
    reward_model(folder / "reward", folder / "base")
    return folder


def reward_model(folder: Path, base: Path, labels: int = 1, kind: type = LlamaForSequenceClassification, **settings):
    """Write a reward model without a relation to the base but its shape."""
    config = LlamaConfig.from_pretrained(base)
    config.num_labels, config.pad_token_id = labels, 1
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    base_models.tokenizer().save_pretrained(folder)


def write(name: str, content: str | bytes) -> Change:
    content = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(content)


def truncated(name: str, by: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-by])


def without(*patterns: str) -> Change:
    return lambda folder: [path.unlink() for pattern in patterns for path in folder.glob(pattern)]


def tensors(change: Callable[[dict], dict], name: str = WEIGHTS) -> Change:
    """Change the weights by name."""
    return lambda folder: save_file(change(load_file(folder / name)), folder / name, {"format": "pt"})


def one(part: str, change: Callable[[torch.Tensor], torch.Tensor], name: str = WEIGHTS) -> Change:
    """Change the tensors whose names have a part."""
    return tensors(lambda found: {key: change(value) if part in key else value for key, value in found.items()}, name)


def dropped(part: str, name: str = WEIGHTS) -> Change:
    return tensors(lambda found: {key: value for key, value in found.items() if part not in key}, name)


def renamed(old: str, new: str, name: str = WEIGHTS) -> Change:
    return tensors(lambda found: {key.replace(old, new): value for key, value in found.items()}, name)


def prefixed(prefix: str) -> Change:
    return tensors(lambda found: {prefix + key: value for key, value in found.items()})


def settings(name: str = "config.json", **values: object) -> Change:
    """Change the keys of a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content = {key: value for key, value in (content | values).items() if value is not REMOVED}
        (folder / name).write_text(json.dumps(content))

    return change


def adapter_settings(**values: object) -> Change:
    return settings("adapter_config.json", **values)


def swapped_by(model: object) -> Change:
    """Replace the model by one of another kind."""

    def change(folder: Path) -> None:
        without("*.safetensors", "config.json")(folder)
        model.save_pretrained(folder)

    return change


def moved_below(*parts: str) -> Change:
    """Put the checkpoint into a subfolder."""

    def change(folder: Path) -> None:
        inside = folder.joinpath(*parts)
        shutil.move(folder, folder.with_name("moved"))
        inside.parent.mkdir(parents=True)
        shutil.move(folder.with_name("moved"), inside)

    return change


def replaced_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"GGUF\x03\x00\x00\x00")


def save_adapter(folder: Path, base: Path, config: PeftConfig | None = None, kind: str = "causal-lm") -> Path:
    """Save a foreign adapter, with large random weights, as PEFT does."""
    torch.manual_seed(0)
    if kind == "causal-lm":
        model = AutoModelForCausalLM.from_pretrained(base)
    else:
        model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1)
    task = "CAUSAL_LM" if kind == "causal-lm" else "SEQ_CLS"
    adapted = get_peft_model(model, config or LoraConfig(r=2, target_modules="all-linear", task_type=task))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and parameter.is_floating_point() and "lora_A" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    base_models.tokenizer().save_pretrained(folder)
    return folder


def more_tokens(folder: Path) -> None:
    """Add tokens to the tokenizer, and no rows to the model."""
    words = base_models.tokenizer()
    words.add_tokens([f"<new{number}>" for number in range(20)])
    words.save_pretrained(folder)


GENERATION = "generation_config.json"
# Damaged generation configs, of a model or of an adapter -> (the content, what the message says).
GENERATIONS = {
    "no JSON": ("{bad", "generation_config.json"),
    "a list": ("[1]", "generation_config.json"),
    "a pointer": (POINTER, "generation_config.json"),
    "end token is text": ('{"eos_token_id": "x"}', "eos_token_id: 'x'"),
    "end tokens are texts": ('{"eos_token_id": [1, "x"]}', "eos_token_id: [1, 'x']"),
    "end token is a fraction": ('{"eos_token_id": 1.5}', "eos_token_id: 1.5"),
    "padding is true": ('{"pad_token_id": true}', "pad_token_id: True"),
    "no beams": ('{"num_beams": 0}', "num_beams: 0"),
    "no replies": ('{"num_return_sequences": 0}', "num_return_sequences: 0"),
}
LINK = {"folder": ".", "stages": ["sft"], "digest": "x"}
CHAIN = {"base": "x", "base_digest": None, "links": [LINK]}
# Damaged records of an adapter's chain -> what the message says.
CHAINS: dict[str, tuple[dict, str]] = {
    "rows are text": (CHAIN | {"grown_to": "y"}, "grown_to: 'y'"),
    "base is a number": (CHAIN | {"base": 5}, "base: 5"),
    "quantisation is text": (CHAIN | {"quantization": "4 bit"}, "quantization: '4 bit'"),
    "no links": (CHAIN | {"links": []}, "no links"),
    "links are a number": (CHAIN | {"links": 5}, "not iterable"),
    "a link is text": (CHAIN | {"links": ["x"]}, "adapter_chain.json"),
    "a folder is a number": (CHAIN | {"links": [LINK | {"folder": 1}]}, "folder=1"),
    "stages are text": (CHAIN | {"links": [LINK | {"stages": "sft"}]}, "stages='sft'"),
    "merged from a number": (CHAIN | {"merged_from": 5}, "merged_from: 5"),
    "merged from another file": (CHAIN | {"merged_from": {"x": 1}}, "links"),
    "another file": ({"x": 1}, "links"),
}
# Damaged lineages -> what the message says.
PARENT = {"stage": "base", "method": "pretrain", "parents": {}}
LINEAGES: dict[str, tuple[dict, str]] = {
    "numbers": ({"parents": 5, "stage": 3}, "parents: 5"),
    "no method": (PARENT | {"method": None}, "method: None"),
    "no parents": ({"stage": "sft", "method": "sft"}, "parents"),
    "parents are a list": (PARENT | {"parents": []}, "parents: []"),
    "a parent is text": (PARENT | {"parents": {"model": "x"}}, "parent of type str"),
    "a parent without a stage": (PARENT | {"parents": {"model": PARENT | {"stage": 1}}}, "stage: 1"),
    "a digest is a number": (PARENT | {"digest": 5}, "digest: 5"),
    "an adapter without a base": (PARENT | {"adapter": True}, "base: None"),
    "data are a list": (PARENT | {"data": ["x"]}, "data: ['x']"),
    "from a number": ({"from": 5}, "from: 5"),
    "empty": ({}, "stage: None"),
}
SHARD = "model-00002-of-00007.safetensors"
INDEX = "model.safetensors.index.json"
# What is wrong -> (the intact folder, the change, what the message says).
MODELS: dict[str, tuple[str, Change, str]] = {
    "no weights": ("base", without(WEIGHTS), "no weights"),
    "no tokenizer": ("base", without("token*"), "no tokenizer"),
    "no config": ("base", without("config.json"), "config.json"),
    "empty config": ("base", write("config.json", ""), "config.json is damaged"),
    "config is no JSON": ("base", write("config.json", "{model_type: llama"), "config.json is damaged"),
    "config is a list": ("base", write("config.json", "[1]"), "config.json is damaged"),
    "config is a pointer": ("base", write("config.json", POINTER), "git lfs pull"),
    "no model_type": ("base", settings(model_type=REMOVED), "model_type"),
    "unknown model_type": ("base", settings(model_type="unheard-of"), "model_type"),
    "width is text": ("base", settings(hidden_size="32"), "hidden_size"),
    "other width": ("base", settings(hidden_size=64), "shape"),
    "endless layers": ("base", settings(num_hidden_layers=10**25), "num_hidden_layers: 1e+25"),
    "more layers": ("base", settings(num_hidden_layers=3), "layers.2"),
    "no heads": ("base", settings(num_attention_heads=0), "cannot load"),
    "unknown dtype": ("base", settings(dtype="floaty"), "floaty"),
    "unknown activation": ("base", settings(hidden_act="strange"), "strange"),
    "unknown rope": ("base", settings(rope_parameters={"rope_type": "strange", "rope_theta": 1e4}), "strange"),
    "zero bytes": ("base", write(WEIGHTS, ""), "0 bytes"),
    "weights are a pointer": ("base", write(WEIGHTS, POINTER), "git lfs pull"),
    "weights are a web page": ("base", write(WEIGHTS, "<!DOCTYPE html><html>403</html>" * 9), "web page"),
    "weights are a pickle": ("base", write(WEIGHTS, b"PK\x03\x04" + bytes(200)), "pickle"),
    "truncated": ("base", truncated(WEIGHTS, 100), "bytes"),
    "truncated in the header": ("base", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:100]), "bytes"),
    "tokenizer is a pointer": ("base", write("tokenizer.json", POINTER), "git lfs pull"),
    "tokenizer is empty": ("base", write("tokenizer.json", ""), "tokenizer"),
    "tokenizer is another JSON": ("base", write("tokenizer.json", "{}"), "tokenizer"),
    "tokenizer is cut": ("base", truncated("tokenizer.json", 50), "tokenizer"),
    "prefix module": ("base", prefixed("module."), "module."),
    "prefix _orig_mod": ("base", prefixed("_orig_mod."), "_orig_mod."),
    "prefix of PEFT": ("base", prefixed("base_model.model."), "base_model.model."),
    "one tensor missing": ("base", dropped("layers.1.mlp.up"), "layers.1.mlp.up"),
    "one tensor cut": ("base", one("layers.1.mlp.up", lambda x: x[:-1].clone()), "layers.1.mlp.up"),
    "no output layer": ("base", dropped("lm_head"), "lm_head"),
    "fewer rows": ("base", one("embed_tokens", lambda x: x[:-1].clone()), "embed_tokens"),
    "NaN": ("base", one("layers.1.mlp.up", lambda x: x * NAN), "NaN"),
    "infinite": ("base", one("norm", lambda x: x / 0), "infinity"),
    "integers": ("base", one("mlp", lambda x: x.to(torch.int8)), "int8"),
    "a shard missing": ("shards", without(SHARD), SHARD),
    "two shards missing": ("shards", without(SHARD, SHARD.replace("2-", "3-")), SHARD),
    "a shard truncated": ("shards", truncated(SHARD, 50), SHARD),
    "a shard of zero bytes": ("shards", write(SHARD, ""), SHARD),
    "a shard is a pointer": ("shards", write(SHARD, POINTER), SHARD),
    "shards without an index": ("shards", without(INDEX), INDEX),
    "the index is damaged": ("shards", write(INDEX, "{"), INDEX),
    "the index has no map": ("shards", write(INDEX, "{}"), INDEX),
    "the index maps to numbers": ("shards", write(INDEX, '{"weight_map": {"a": 1}}'), INDEX),
    "tokens without rows": ("base", more_tokens, "beyond the model's embeddings"),
    "longest text is text": ("base", settings("tokenizer_config.json", model_max_length="x"), "model_max_length: 'x'"),
    "unheard quantisation": ("base", settings(quantization_config={"quant_method": "nosuch"}), "nosuch"),
    **{
        f"generation config: {name}": ("base", write(GENERATION, content), said)
        for name, (content, said) in GENERATIONS.items()
    },
    "pickled": ("base", lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), "pickle"),
    "GGUF": ("base", lambda f: (f / WEIGHTS).rename(f / "model-q4.gguf"), "GGUF"),
    "ONNX": ("base", lambda f: (f / WEIGHTS).rename(f / "model.onnx"), "ONNX"),
    "a GGUF file": ("base", replaced_by_file, "GGUF"),
    "a run directory": ("base", moved_below("sft", "checkpoint"), "sft/checkpoint"),
    "a stage's folder": ("base", moved_below("checkpoint"), "checkpoint"),
    "a trainer's folder": ("base", moved_below("checkpoint-500"), "checkpoint-500"),
    "the hub's cache": ("base", moved_below("snapshots", "0" * 40), "snapshots/0000"),
    "an empty folder": ("base", without("*"), "empty"),
    "weights without a config": ("base", without("*.json"), "config.json"),
    "adapter weights alone": ("base", lambda f: (f / WEIGHTS).rename(f / ADAPTER), "adapter_config.json"),
    "a classifier": ("reward", lambda f: None, "causal"),
    "a tagger": ("base", lambda f: reward_model(f, f, 2, LlamaForTokenClassification), "causal"),
    "a trunk": ("base", lambda f: swapped_by(LlamaModel(LlamaConfig.from_pretrained(f)))(f), "lm_head"),
    "BERT with its head": ("base", swapped_by(BertForMaskedLM(BertConfig(**SMALL, **ENCODER))), "causal"),
    "BERT": ("base", swapped_by(BertModel(BertConfig(**SMALL, **ENCODER))), "causal"),
    "T5": (
        "base",
        swapped_by(T5ForConditionalGeneration(T5Config(vocab_size=30, d_model=32, num_layers=1, num_heads=2, d_ff=32))),
        "causal",
    ),
    "BART": (
        "base",
        swapped_by(
            BartForConditionalGeneration(
                BartConfig(
                    vocab_size=30,
                    d_model=32,
                    encoder_layers=1,
                    decoder_layers=1,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    encoder_ffn_dim=32,
                    decoder_ffn_dim=32,
                )
            )
        ),
        "causal",
    ),
    "a vision model": (
        "base",
        swapped_by(ViTForImageClassification(ViTConfig(**ENCODER, hidden_size=32, num_hidden_layers=1, image_size=32))),
        "causal",
    ),
    "fewer rows than tokens": (
        "base",
        swapped_by(LlamaForCausalLM(LlamaConfig(vocab_size=100, **base_models.SIZES))),
        "tokens",
    ),
}
# Unusual, and used as they are.
SOUND: dict[str, tuple[str, Change]] = {
    "intact": ("base", lambda f: None),
    "tied": ("tied", lambda f: None),
    "shards": ("shards", lambda f: None),
    "16 bit": ("base", tensors(lambda found: {key: value.bfloat16() for key, value in found.items()})),
    "more tensors than the model": ("base", tensors(lambda found: found | {"extra.weight": torch.zeros(2)})),
    "no architectures": ("base", settings(architectures=REMOVED)),
    "a tied trunk": ("tied", settings(architectures=["LlamaModel"])),
    "a pickle too": ("base", write("pytorch_model.bin", b"x")),
    "a classifier's tokenizer files": ("gpt2", lambda f: None),
}
UP, SCORE = "layers.0.mlp.up_proj.lora_A", "score.weight"
# What is wrong with an adapter -> (the change, what the message says). PARTS stands for the folder of other bases.
ADAPTERS: dict[str, tuple[Change, str]] = {
    "base is null": (adapter_settings(base_model_name_or_path=None), "base_model_name_or_path"),
    "base is not named": (adapter_settings(base_model_name_or_path=REMOVED), "base_model_name_or_path"),
    "base is empty": (adapter_settings(base_model_name_or_path=""), "base_model_name_or_path"),
    "base is a number": (adapter_settings(base_model_name_or_path=3), "base_model_name_or_path"),
    "base is a list": (adapter_settings(base_model_name_or_path=["base"]), "base_model_name_or_path"),
    "base is gone": (adapter_settings(base_model_name_or_path="/nowhere/base"), "/nowhere/base"),
    "base is itself": (lambda f: adapter_settings(base_model_name_or_path=str(f))(f), "adapter"),
    "base is wider": (lambda f: on(f, "wide"), "does not fit its base"),
    "base is GPT-2": (lambda f: on(f, "gpt2"), "does not fit its base"),
    "base has no weights": (lambda f: on(f, "base", without(WEIGHTS)), "no weights"),
    "base has NaN": (lambda f: on(f, "base", one("norm", lambda x: x * NAN)), "NaN"),
    "base is a classifier": (lambda f: on(f, "reward"), "causal"),
    "rank 0": (adapter_settings(r=0), "rank"),
    "rank -1": (adapter_settings(r=-1), "rank"),
    "rank is text": (adapter_settings(r="x"), "rank"),
    "another rank": (adapter_settings(r=4), "does not fit its base"),
    "an unknown type": (adapter_settings(peft_type="UNHEARD"), "UNHEARD"),
    "no type": (adapter_settings(peft_type=REMOVED), "peft_type"),
    "another type": (adapter_settings(peft_type="IA3"), "does not fit its base"),
    "made for tags": (adapter_settings(task_type="TOKEN_CLS"), "TOKEN_CLS"),
    "made for sequences": (adapter_settings(task_type="SEQ_2_SEQ_LM"), "SEQ_2_SEQ_LM"),
    "made for answers": (adapter_settings(task_type="QUESTION_ANS"), "QUESTION_ANS"),
    "made for scores": (adapter_settings(task_type="SEQ_CLS"), "SEQ_CLS"),
    "made for nothing known": (adapter_settings(task_type="UNHEARD"), "UNHEARD"),
    "targets that are not there": (adapter_settings(target_modules=["unheard"]), "unheard"),
    "fewer targets": (adapter_settings(target_modules=["q_proj"]), "does not fit its base"),
    "targets are no pattern": (adapter_settings(target_modules="(("), "does not fit its base"),
    "settings are no JSON": (write("adapter_config.json", "{"), "adapter_config.json is damaged"),
    "settings are a list": (write("adapter_config.json", "[]"), "adapter_config.json is damaged"),
    "settings are a pointer": (write("adapter_config.json", POINTER), "git lfs pull"),
    "no weights": (without(ADAPTER), "no weights"),
    "zero bytes": (write(ADAPTER, ""), "0 bytes"),
    "weights are a pointer": (write(ADAPTER, POINTER), "git lfs pull"),
    "truncated": (truncated(ADAPTER, 9), "bytes"),
    "pickled": (lambda f: (f / ADAPTER).rename(f / "adapter_model.bin"), "pickle"),
    "no tensors": (tensors(lambda found: {}, ADAPTER), "does not fit its base"),
    "a tensor missing": (dropped(UP, ADAPTER), "does not fit its base"),
    "a tensor too many": (tensors(lambda found: found | {"base_model.model.x": torch.ones(1)}, ADAPTER), "model.x"),
    "names without PEFT's prefix": (renamed("base_model.model.", "", ADAPTER), "does not fit its base"),
    "NaN": (one(UP, lambda x: x * NAN, ADAPTER), "NaN"),
    "integers": (one("lora", lambda x: x.to(torch.int8), ADAPTER), "integers"),
    "DoRA without its vectors": (adapter_settings(use_dora=True), "lora_magnitude_vector"),
    "tokens without rows": (more_tokens, "beyond the model's embeddings"),
    **{f"generation config: {name}": (write(GENERATION, case[0]), case[1]) for name, case in GENERATIONS.items()},
    **{f"chain: {name}": (write("adapter_chain.json", json.dumps(case[0])), case[1]) for name, case in CHAINS.items()},
}
CAUSAL = {"task_type": "CAUSAL_LM"}
# Adapters of other kinds -> (PEFT's settings, the change, the message; None: used as it is).
KINDS: dict[str, tuple[PeftConfig, Change, str | None]] = {
    "LoRA": (LoraConfig(r=2, target_modules="all-linear", **CAUSAL), lambda f: None, None),
    "no task": (LoraConfig(r=2, target_modules=["q_proj"]), lambda f: None, None),
    "IA3": (
        IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"], **CAUSAL),
        lambda f: None,
        None,
    ),
    "DoRA": (LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, **CAUSAL), lambda f: None, None),
    "DoRA without a vector": (
        LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, **CAUSAL),
        dropped("layers.1.self_attn.q_proj.lora_magnitude_vector", ADAPTER),
        "lora_magnitude_vector",
    ),
    "LoHa": (LoHaConfig(r=2, target_modules=["q_proj"], **CAUSAL), lambda f: None, None),
    "OFT": (OFTConfig(target_modules=["q_proj"], **CAUSAL), lambda f: None, None),
    "VeRA": (VeraConfig(target_modules=["q_proj"], **CAUSAL), lambda f: None, None),
    "token rows": (
        LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3], **CAUSAL),
        lambda f: None,
        None,
    ),
    "prompt tuning": (PromptTuningConfig(num_virtual_tokens=3, **CAUSAL), lambda f: None, "PROMPT_TUNING"),
    "prefix tuning": (PrefixTuningConfig(num_virtual_tokens=3, **CAUSAL), lambda f: None, "PREFIX_TUNING"),
    "saved embeddings": (
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], **CAUSAL),
        lambda f: None,
        None,
    ),
    "saved embeddings of other rows": (
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], **CAUSAL),
        lambda f: on(f, "rows"),
        "does not fit its base",
    ),
    "a layer of other rows": (
        LoraConfig(r=2, target_modules=["lm_head"], **CAUSAL),
        lambda f: on(f, "rows"),
        "does not fit its base",
    ),
    "a saved layer missing": (
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], **CAUSAL),
        dropped("lm_head", ADAPTER),
        "lm_head",
    ),
    "token rows missing": (
        LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3], **CAUSAL),
        dropped("token", ADAPTER),
        "token",
    ),
    "token rows beyond the table": (
        LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3], **CAUSAL),
        adapter_settings(trainable_token_indices=[5000]),
        "does not fit its base",
    ),
}
# Reward models -> (the change to an intact one, what the message says; None: its scores are used).
REWARDS: dict[str, tuple[Change, str | None]] = {
    "intact": (lambda f: None, None),
    "no head": (dropped("score"), "score"),
    "head of another name": (renamed("score", "value_head"), "score"),
    "head of a trainer": (renamed("score", "module.score"), "score"),
    "head of PEFT": (renamed("score.weight", "score.modules_to_save.default.weight"), "score"),
    "head of other width": (one("score", lambda x: x[:, :16].clone()), "score"),
    "head transposed": (one("score", lambda x: x.T.contiguous()), "score"),
    "head of two rows": (one("score", lambda x: x.repeat(2, 1)), "score"),
    "head of NaN": (one("score", lambda x: x * NAN), "NaN"),
    "a layer missing": (dropped("layers.1"), "layers.1"),
    "two labels": (lambda f: reward_model(f, f, 2), "score"),
    "three labels": (lambda f: reward_model(f, f, 3), "score"),
    "two labels, many at once": (lambda f: reward_model(f, f, 2, problem_type="multi_label_classification"), "score"),
    "regression": (settings(problem_type="regression"), None),
    "one label of many": (settings(problem_type="multi_label_classification"), None),
    "labels not named": (settings(num_labels=REMOVED, id2label=REMOVED, label2id=REMOVED), None),
    "labels not named, no head": (
        lambda f: (settings(num_labels=REMOVED, id2label=REMOVED)(f), dropped("score")(f)),
        "score",
    ),
    "no architecture": (settings(architectures=REMOVED), "reward model"),
    "a causal LM": (settings(architectures=["LlamaForCausalLM"]), "reward model"),
    "a tagger": (lambda f: reward_model(f, f, 1, LlamaForTokenClassification), "reward model"),
    "architectures are text": (settings(architectures="LlamaForSequenceClassification"), None),
}


def on(folder: Path, name: str, change: Change | None = None) -> None:
    """Name another base; with a change, a changed copy of it."""
    base = folder.parent / name
    if change is not None:
        base = shutil.copytree(base, folder.parent / f"{folder.name}-base")
        change(base)
    adapter_settings(base_model_name_or_path=str(base))(folder)
