"""Checkpoints to and from transformers' own architectures, and to folders that carry their code."""

import argparse
import json
import os
import subprocess
import sys

import pytest
import torch
from align_cli import align
from gpt_tiny import CLASSIC, EXPERTS, FAMILIES, MODERN, build, randomise, token_ids
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2ForSequenceClassification,
)

from alignment.cli.share import export_checkpoint as export_verb
from alignment.errors import UserError
from alignment.models.gpt import (
    GPTConfig,
    GPTForCausalLM,
    GPTForSequenceClassification,
    GPTForTokenClassification,
    GPTModel,
)
from alignment.models.interop import TARGETS, export_checkpoint, import_checkpoint
from alignment.models.interop.families import FAMILIES as NATIVE
from alignment.tokenization.train import train_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16}
CLASSIC_SIZES = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MODERN_SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FOREIGN = {
    "gpt1": ("openai-gpt", {**CLASSIC_SIZES, "afn": "gelu", "layer_norm_epsilon": 1e-3}),
    "gpt1-untied": ("openai-gpt", {**CLASSIC_SIZES, "afn": "relu", "tie_word_embeddings": False}),
    "gpt2": ("gpt2", {**CLASSIC_SIZES, "layer_norm_epsilon": 1e-3, "attn_pdrop": 0.2, "embd_pdrop": 0.3}),
    "gpt2-untied": (
        "gpt2",
        {**CLASSIC_SIZES, "n_inner": 48, "activation_function": "relu", "tie_word_embeddings": False},
    ),
    "llama": (
        "llama",
        {**MODERN_SIZES, "rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3},
    ),
    "llama-tied": (
        "llama",
        {**MODERN_SIZES, "rope_parameters": YARN, "tie_word_embeddings": True, "attention_dropout": None},
    ),
    "llama-mqa": (
        "llama",
        {**MODERN_SIZES, "num_key_value_heads": 1, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "qwen3": ("qwen3", {**MODERN_SIZES, "head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3-sliding": (
        "qwen3",
        {**MODERN_SIZES, "head_dim": 8, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "mixtral": ("mixtral", {**MODERN_SIZES, "num_local_experts": 4, "num_experts_per_tok": 3}),
    "mixtral-sliding": (
        "mixtral",
        {**MODERN_SIZES, "num_local_experts": 3, "sliding_window": 4, "tie_word_embeddings": True, "head_dim": 16},
    ),
}
OURS = {
    "gpt2": ("gpt2", CLASSIC),
    "gpt2-dropout": ("gpt2", {**CLASSIC, "attention_dropout": 0.1, "hidden_dropout": 0.2, "embedding_dropout": 0.3}),
    "llama": ("llama", {**MODERN, "rope_parameters": LLAMA3}),
    "llama-biases": ("llama", {**MODERN, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-yarn": ("llama", FAMILIES["yarn"]),
    "qwen3": ("qwen3", FAMILIES["qk-norm"]),
    "qwen3-sliding": (
        "qwen3",
        {
            **MODERN,
            "qk_norm": True,
            "attention_bias": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "mixtral": (
        "mixtral",
        {**EXPERTS, "intermediate_size": 24, "router_z_loss_coef": 0.0, "output_router_logits": False},
    ),
    "mixtral-sliding": (
        "mixtral",
        {
            **EXPERTS,
            "intermediate_size": 24,
            "router_aux_loss_coef": 0.0,
            "router_z_loss_coef": 0.0,
            "output_router_logits": False,
            "sliding_window": 4,
            "tie_word_embeddings": True,
        },
    ),
}
every_foreign = pytest.mark.parametrize("case", FOREIGN)
every_ours = pytest.mark.parametrize("case", OURS)


def foreign(case, **changes):
    model_type, options = FOREIGN[case]
    torch.manual_seed(0)
    return randomise(AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **TOKENS, **options | changes)))


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def left_padded():
    """Rows of 14, 9 and 3 tokens, padded on the left: (ids, mask), longer than every window and than YaRN's start."""
    ids, mask = token_ids(3, 20), torch.ones(3, 20, dtype=torch.long)
    for row, padding in enumerate((0, 7, 17)):
        ids[row, :padding], mask[row, :padding] = 0, 0
    return ids, mask


@torch.no_grad()
def logits_and_reply(model):
    """Logits of the real tokens of a padded batch, (tokens, vocab), and the greedy reply to the batch."""
    ids, mask = left_padded()
    about = {}
    if model.config.model_type in ("openai-gpt", "gpt2"):  # outside generate, they count padding among the positions
        about["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, **about).logits[mask == 1]
    if model.config.model_type == "openai-gpt":  # nor does its generate count from the first real token
        return logits, model.generate(ids[:1], max_new_tokens=6, do_sample=False).tolist()
    reply = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    return logits, reply.tolist()


def assert_same_model(first, second):
    (logits, reply), (expected, expected_reply) = logits_and_reply(first), logits_and_reply(second)
    difference = (logits - expected).abs().max().item()
    print(f"max |difference of logits| {difference:.1e}, of {expected.abs().max():.1f}")
    assert difference <= 1e-5
    if second.config.model_type == "openai-gpt":
        ids, _ = left_padded()
        reply = first.generate(ids[:1], max_new_tokens=6, do_sample=False).tolist()
    assert reply == expected_reply


def assert_same_weights(first, second):
    """Bit by bit, and in their types."""
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


def options_of(config):
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


@every_foreign
def test_an_imported_model_is_the_model(case, tmp_path):
    theirs = foreign(case)
    theirs.generation_config = GenerationConfig(eos_token_id=[2, 7], pad_token_id=0, top_k=3, do_sample=True)
    done = import_checkpoint(saved(theirs, tmp_path / "theirs"), tmp_path / "ours")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(ours) is GPTForCausalLM
    assert_same_model(ours, theirs)
    assert ours.generation_config.to_diff_dict() == theirs.generation_config.to_diff_dict()
    assert (done.architecture, done.parameters, done.left_behind) == ("GPTForCausalLM", theirs.num_parameters(), {})
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == theirs.config.tie_word_embeddings


@every_ours
def test_an_exported_model_is_the_model_and_comes_back(case, tmp_path):
    target, shape = OURS[case]
    ours = build(shape)
    done = export_checkpoint(saved(ours, tmp_path / "ours"), target, tmp_path / "theirs")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert (theirs.config.model_type, type(theirs).__name__) == (target, done.architecture)
    assert_same_model(theirs, ours)
    import_checkpoint(tmp_path / "theirs", tmp_path / "back")
    back = GPTForCausalLM.from_pretrained(tmp_path / "back")
    assert_same_weights(back, ours)
    assert options_of(back.config) == options_of(GPTForCausalLM.from_pretrained(tmp_path / "ours").config)


@pytest.mark.parametrize("case", [case for case in FOREIGN if not case.startswith("gpt1")])
def test_an_imported_model_goes_back(case, tmp_path):
    theirs = foreign(case)
    import_checkpoint(saved(theirs, tmp_path / "theirs"), tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", theirs.config.model_type, tmp_path / "back")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert_same_weights(back, theirs)
    # What was None has its derived value now; max_window_layers says what layer_types says.
    expected = {name: value for name, value in options_of(theirs.config).items() if value is not None}
    found = options_of(back.config)
    different = {name for name, value in expected.items() if found[name] != value}
    assert different <= {"max_window_layers"}


def test_the_type_of_the_weights_stays(tmp_path):
    ours = build(MODERN).bfloat16()
    export_checkpoint(saved(ours, tmp_path / "ours"), "llama", tmp_path / "theirs")
    import_checkpoint(tmp_path / "theirs", tmp_path / "back")
    for name in ("theirs", "back"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto")
        assert model.config.dtype == torch.bfloat16
        assert_same_weights(model, ours)


ALONE = """
import json, sys
class Blocked:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("alignment", "align"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked)
try:
    import alignment
except ModuleNotFoundError:
    pass
else:
    sys.exit("this project is importable here")
import torch, transformers
found = {}
for folder, auto, options, tokenized in json.load(sys.stdin):
    model, report = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    ids = torch.tensor([[5, 9, 4, 20, 11]])
    output = model.eval()(ids)
    output = output.logits if "logits" in output else output.last_hidden_state
    reply = model.generate(ids, max_new_tokens=4, do_sample=False).tolist() if model.can_generate() else None
    found[folder] = [type(model).__name__, output.tolist(), reply]
    if tokenized:
        found[folder] += [transformers.AutoTokenizer.from_pretrained(folder, **options)("the hens live")["input_ids"]]
print(json.dumps(found))
"""


HEADS = {
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
}


def load_alone(folders, tmp_path):
    """(folder, Auto class, options, has a tokenizer) each -> folder -> [class, output, reply, and if it has a tokenizer
    the ids of a text], in a process without this project."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    command = [sys.executable, "-P", "-c", ALONE]
    given = json.dumps([[str(folder), *rest] for folder, *rest in folders])
    ran = subprocess.run(command, input=given, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def assert_loaded_alone(folders, built, tmp_path):
    found = load_alone(folders, tmp_path)
    ids = torch.tensor([[5, 9, 4, 20, 11]])
    for (folder, *_), model in zip(folders, built, strict=True):
        _, output, reply, *_ = found[str(folder)]
        expected = model(ids)
        expected = expected.logits if "logits" in expected else expected.last_hidden_state
        torch.testing.assert_close(torch.tensor(output), expected, rtol=0, atol=1e-5)
        if model.can_generate():
            assert reply == model.generate(ids, max_new_tokens=4, do_sample=False).tolist()
    return [found[str(folder)] for folder, *_ in folders]


def test_native_exports_load_without_this_project(tmp_path):
    cases = ("gpt2", "llama", "qwen3", "mixtral")
    built = [build(OURS[case][1], vocab_size=300) for case in cases]
    for case, model in zip(cases, built, strict=True):
        tokenizer = pipeline_tokenizer(tmp_path / "ours" / case)
        export_checkpoint(saved(model, tmp_path / "ours" / case), case, tmp_path / case)
    folders = [(tmp_path / case, "AutoModelForCausalLM", {}, True) for case in cases]
    loaded = assert_loaded_alone(folders, built, tmp_path)
    classes = ["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM", "MixtralForCausalLM"]
    assert [one[0] for one in loaded] == classes
    assert [one[3] for one in loaded] == [tokenizer("the hens live")["input_ids"]] * 4


def test_self_contained_exports_load_without_this_project(tmp_path):
    tokenizer = pipeline_tokenizer(tmp_path / "ours" / "moe")
    built = {
        "moe": build(FAMILIES["moe-shared"], vocab_size=300),
        "gpt1": build(FAMILIES["gpt1"]),
        "sinks": build(FAMILIES["sinks"]),
        "reward": build(MODERN, GPTForSequenceClassification, num_labels=1),
        "tagger": build(MODERN, GPTForTokenClassification, num_labels=3),
        "base": build(FAMILIES["softcap"], GPTModel),  # vLLM loads this one
    }
    folders = []
    for name, model in built.items():
        done = export_checkpoint(saved(model, tmp_path / "ours" / name), "self-contained", tmp_path / name)
        assert done.auto_class == type(model).__name__.replace("GPT", "AutoModel").replace(
            "AutoModelModel", "AutoModel"
        )
        folders.append((tmp_path / name, done.auto_class, {"trust_remote_code": True}, name == "moe"))
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["auto_map"].keys() == HEADS
    loaded = assert_loaded_alone(folders, built.values(), tmp_path)
    assert [one[0] for one in loaded] == [type(model).__name__ for model in built.values()]
    assert loaded[0][3] == tokenizer("the hens live")["input_ids"]


def test_a_self_contained_export_is_still_a_checkpoint_here(tmp_path):
    model = build(FAMILIES["softcap"])
    export_checkpoint(saved(model, tmp_path / "ours"), "self-contained", tmp_path / "alone")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "alone")
    assert type(loaded) is GPTForCausalLM
    assert_same_weights(loaded, model)


@pytest.mark.parametrize(
    ("target", "shape", "changes", "got", "expected", "fitting"),
    [
        ("llama", MODERN, {"norm_placement": "post"}, "norm_placement=post", "norm_placement=pre", ""),
        ("llama", FAMILIES["qk-norm"], {}, "qk_norm=True", "qk_norm=False", "qwen3 or "),
        ("qwen3", MODERN, {}, "qk_norm=False", "qk_norm=True", "llama or "),
        ("llama", MODERN, {"attention_sinks": True}, "attention_sinks=True", "attention_sinks=False", ""),
        (
            "llama",
            FAMILIES["softcap"],
            {},
            "attn_logit_softcapping=2.0, final_logit_softcapping=3.0",
            "attn_logit_softcapping=None, final_logit_softcapping=None",
            "",
        ),
        ("llama", EXPERTS, {}, "num_experts=4", "num_experts=0", "mixtral or "),
        (
            "llama",
            FAMILIES["sinks"],
            {"attention_sinks": False},
            "layer_types=full_attention/sliding_attention",
            "layer_types=full_attention",
            "",
        ),
        (
            "llama",
            MODERN,
            {"hidden_size": 34, "head_dim": 10},
            "hidden_size=34",
            "hidden_size=a multiple of num_attention_heads=4",
            "",
        ),
        (
            "qwen3",
            {**MODERN, "qk_norm": True},
            {"mlp_bias": True, "norm_type": "layernorm"},
            "norm_type=layernorm, mlp_bias=True",
            "norm_type=rmsnorm, mlp_bias=False",
            "",
        ),
        (
            "mixtral",
            FAMILIES["moe-shared"],
            {"attention_bias": True, "sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types=full_attention/sliding_attention, num_shared_experts=2, mlp_layer_types=dense/sparse, "
            "norm_topk_prob=False, attention_bias=True",
            "layer_types=sliding_attention, num_shared_experts=0, mlp_layer_types=sparse, "
            "norm_topk_prob=True, attention_bias=False",
            "",
        ),
        (
            "mixtral",
            MODERN,
            {},
            "mlp_layer_types=dense, num_experts=0",
            "mlp_layer_types=sparse, num_experts=at least 1",
            "llama or ",
        ),
        (
            "gpt2",
            CLASSIC,
            {"num_key_value_heads": 2, "head_dim": 16, "attention_bias": False, "norm_placement": "post"},
            "num_key_value_heads=2, head_dim=16, norm_placement=post, attention_bias=False",
            "num_key_value_heads=4, head_dim=8, norm_placement=pre, attention_bias=True",
            "",
        ),
        (
            "gpt2",
            MODERN,
            {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
            "norm_type=rmsnorm, position_embedding_type=rope, mlp_type=gated",
            "norm_type=layernorm, position_embedding_type=learned, mlp_type=mlp",
            "llama or ",
        ),
    ],
)
def test_a_target_that_lacks_an_option_is_refused_by_name(target, shape, changes, got, expected, fitting, tmp_path):
    GPTConfig(**shape | changes).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=f"options that {target} lacks") as raised:
        export_checkpoint(tmp_path / "ours", target, tmp_path / "theirs")
    assert (raised.value.got, raised.value.expected) == (got, expected)
    assert raised.value.fix == f"--to {fitting}self-contained"
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("case", "changes", "got"),
    [
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
            "scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True",
        ),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp=2"),
        (
            "llama",
            {"rope_parameters": {**YARN, "partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor=0.5",
        ),
        ("mixtral", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config={'quant_method': 'gptq'}"),
    ],
)
def test_an_option_that_the_gpt_lacks_is_refused_by_name(case, changes, got, tmp_path):
    model_type, options = FOREIGN[case]
    AutoConfig.for_model(model_type, **options | changes).save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match="options that the GPT lacks") as raised:
        import_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    assert raised.value.got == got
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("model_type", NATIVE)
def test_the_tables_name_options_that_exist(model_type):
    """A name that transformers gave up would otherwise be set on the config, and mean nothing."""
    theirs, ours = AutoConfig.for_model(model_type), GPTConfig()
    family = NATIVE[model_type]
    assert all(hasattr(theirs, name) for name in {*family.paired, *family.silent})
    assert all(hasattr(ours, name) for name in {*family.paired.values(), *family.fixed})


def test_what_only_training_uses_is_left_behind_and_said(tmp_path):
    shape = {**EXPERTS, "hidden_dropout": 0.1, "attention_dropout": 0.2, "router_z_loss_coef": 0.5}
    done = export_checkpoint(saved(build(shape), tmp_path / "ours"), "mixtral", tmp_path / "theirs")
    assert done.left_behind == {"hidden_dropout": 0.1, "output_router_logits": True, "router_z_loss_coef": 0.5}
    assert "hidden_dropout=0.1, output_router_logits=True, router_z_loss_coef=0.5" in str(done)
    exported = AutoConfig.from_pretrained(tmp_path / "theirs")
    assert (exported.attention_dropout, exported.output_router_logits) == (0.2, False)
    theirs = foreign("mixtral", router_jitter_noise=0.1)
    done = import_checkpoint(saved(theirs, tmp_path / "noisy"), tmp_path / "still")
    assert done.left_behind == {"router_jitter_noise": 0.1}


def pipeline_tokenizer(folder):
    tokenizer = train_tokenizer(["where the red hen lives, the hens live there"] * 9, 300, 64)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("target", TARGETS)
def test_the_tokenizer_goes_along(target, tmp_path):
    tokenizer = pipeline_tokenizer(tmp_path / "ours")
    shapes = dict(OURS.values()) | {"self-contained": MODERN}
    saved(build(shapes[target], vocab_size=len(tokenizer)), tmp_path / "ours")
    text = " the hen\n\n  lives at 1234, n'est-ce pas?<|end|>Ünïcode "
    chat = [{"role": "user", "content": "where the hen lives"}]
    done = export_checkpoint(tmp_path / "ours", target, tmp_path / "theirs")
    folders = [tmp_path / "theirs"]
    if target != "self-contained":
        import_checkpoint(tmp_path / "theirs", tmp_path / "back")
        folders.append(tmp_path / "back")
    assert done.has_tokenizer
    for folder in folders:
        loaded = AutoTokenizer.from_pretrained(folder)
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
        assert loaded.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)
        assert loaded.special_tokens_map == tokenizer.special_tokens_map


def lora(model, folder, **options):
    """An adapter that is far from idle, on a base saved beside it."""
    saved(model, folder / "base")
    base = type(model).from_pretrained(folder / "base")
    adapted = randomise(get_peft_model(base, LoraConfig(target_modules="all-linear", r=2, **options)))
    adapted.save_pretrained(folder / "adapter")
    # All of the base's weights were moved as well; only the adapter's are saved.
    return type(adapted).from_pretrained(type(model).from_pretrained(folder / "base"), folder / "adapter").eval()


def test_an_adapter_is_merged_first(tmp_path):
    model = build(MODERN, tie_word_embeddings=True)
    adapted = lora(model, tmp_path, task_type="CAUSAL_LM", trainable_token_indices=[5, 9])
    ids = token_ids(2, 12)
    expected = adapted(ids).logits
    assert (expected - model(ids).logits).abs().max() > 0.1
    pipeline_tokenizer(tmp_path / "adapter")
    for target in ("llama", "self-contained"):
        assert export_checkpoint(tmp_path / "adapter", target, tmp_path / target).has_tokenizer
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / target)
        torch.testing.assert_close(exported(ids).logits, expected, rtol=0, atol=1e-5)


def test_an_adapter_on_a_foreign_model_is_merged_first(tmp_path):
    theirs = foreign("gpt2")
    adapted = lora(theirs, tmp_path, task_type="CAUSAL_LM", fan_in_fan_out=True)
    ids = token_ids(2, 12)
    expected = adapted(ids).logits
    assert (expected - theirs(ids).logits).abs().max() > 0.1
    import_checkpoint(tmp_path / "adapter", tmp_path / "ours")
    ours = GPTForCausalLM.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(ours(ids).logits, expected, rtol=0, atol=1e-5)


def test_a_reward_adapter_is_merged_first(tmp_path):
    model = build(MODERN, GPTForSequenceClassification, num_labels=1)
    adapted = lora(model, tmp_path, task_type="SEQ_CLS", modules_to_save=["score"])
    ids = token_ids(2, 12)
    expected = adapted(ids).logits
    assert (expected - model(ids).logits).abs().max() > 0.1
    done = export_checkpoint(tmp_path / "adapter", "self-contained", tmp_path / "alone")
    assert done.auto_class == "AutoModelForSequenceClassification"
    loaded = GPTForSequenceClassification.from_pretrained(tmp_path / "alone")
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="only causal language models can be converted to llama") as raised:
        export_checkpoint(tmp_path / "adapter", "llama", tmp_path / "llama")
    assert "self-contained" in raised.value.fix


def test_a_taken_folder_is_refused(tmp_path):
    saved(build(MODERN), tmp_path / "ours")
    saved(foreign("llama"), tmp_path / "theirs")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("keep")
    for convert in (
        lambda: export_checkpoint(tmp_path / "ours", "llama", taken),
        lambda: export_checkpoint(tmp_path / "ours", "self-contained", taken),
        lambda: import_checkpoint(tmp_path / "theirs", taken),
        lambda: import_checkpoint(tmp_path / "theirs", taken / "notes.txt"),
    ):
        with pytest.raises(UserError, match=r"is not empty|is a file"):
            convert()
    assert [path.name for path in taken.iterdir()] == ["notes.txt"]
    (taken / "notes.txt").unlink()
    import_checkpoint(tmp_path / "theirs", taken)  # empty, it will do


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    saved(build(MODERN), tmp_path / "ours")
    saved(foreign("llama"), tmp_path / "theirs")
    AutoConfig.for_model("bert").save_pretrained(tmp_path / "bert")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "no-such-thing"}')
    refused = [
        (import_checkpoint, ["empty"], "holds no model", "an empty folder"),
        (import_checkpoint, ["nowhere"], "no checkpoint at", None),
        (import_checkpoint, ["bert"], "cannot be converted", "model_type 'bert'"),
        (import_checkpoint, ["odd"], "cannot be converted", "model_type 'no-such-thing'"),
        (import_checkpoint, ["ours"], "already", "model_type 'alignment_gpt'"),
        (export_checkpoint, ["theirs", "llama"], "does not have this project", "model_type 'llama'"),
        (export_checkpoint, ["ours", "bert"], "no target is called 'bert'", None),
    ]
    for convert, (folder, *target), problem, got in refused:
        with pytest.raises(UserError, match=problem) as raised:
            convert(tmp_path / folder, *target, tmp_path / "new")
        assert raised.value.got == got
    assert not (tmp_path / "new").exists()


def test_weights_too_few_or_too_many_are_refused(tmp_path):
    config = AutoConfig.for_model("gpt2", **CLASSIC_SIZES, **TOKENS, num_labels=2)
    saved(randomise(GPT2ForSequenceClassification(config)), tmp_path / "classifier")
    with pytest.raises(UserError, match="do not match its architecture") as raised:
        import_checkpoint(tmp_path / "classifier", tmp_path / "ours")
    assert raised.value.got == "unexpected: score.weight"
    policy = build(MODERN)
    saved(policy, tmp_path / "policy")
    config = json.loads((tmp_path / "policy" / "config.json").read_text())
    (tmp_path / "policy" / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": 3, "layer_types": None, "mlp_layer_types": None})
    )
    for target in ("llama", "self-contained"):
        with pytest.raises(UserError, match="do not match its architecture") as raised:
            export_checkpoint(tmp_path / "policy", target, tmp_path / target)
        assert raised.value.got.startswith("missing: model.layers.2.")
        assert not (tmp_path / target).exists()


def test_the_verbs(tmp_path):
    tokenizer = pipeline_tokenizer(tmp_path / "ours")
    model = build(MODERN, vocab_size=len(tokenizer))
    saved(model, tmp_path / "ours")
    done = align("export", "ours", "--to", "llama", "--output_dir", "theirs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    count = f"{model.num_parameters():,} parameters"
    assert f"theirs: LlamaForCausalLM, {count}, with its tokenizer" in done.stdout
    assert 'transformers.AutoModelForCausalLM.from_pretrained("theirs")' in done.stdout
    done = align("import", "theirs", "--output_dir", "back", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"back: GPTForCausalLM, {count}, with its tokenizer" in done.stdout
    assert_same_weights(GPTForCausalLM.from_pretrained(tmp_path / "back"), model)


def test_the_help_of_export_names_its_targets():
    """In words, not by `choices`: the module that knows the targets takes seconds to import."""
    parser = argparse.ArgumentParser()
    export_verb.add_arguments(parser)
    assert all(target in parser.format_help() for target in TARGETS)
