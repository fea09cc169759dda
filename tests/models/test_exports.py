"""Exports as others read them: older transformers, vLLM, llama.cpp; loaded where this project cannot be imported."""

import ast
import importlib
import importlib.util
import json
import sys
import uuid

import pytest
import torch
import transformers
from gpt_tiny import CLASSIC, EXPERTS, FAMILIES, MODERN, build, token_ids
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from alignment.models.gpt import GPTForCausalLM, GPTForSequenceClassification, GPTModel
from alignment.models.gpt.modeling_gpt import at_positions
from alignment.models.interop import export_checkpoint, import_checkpoint
from alignment.models.interop.other_readers import GPT2, llama_cpp_pre_tokenizer
from alignment.models.interop.other_readers import MODERN as MODERN_SPLIT
from alignment.models.interop.self_contained import OLDEST_TRANSFORMERS, code_files
from alignment.tokenization.train import character_tokenizer, train_tokenizer

# The names of other packages that exported code imports -> the first version of transformers 5 that has them. From the
# import lists of Qwen3, Mixtral, T5Gemma 2 and Pixio in 5.0; output_capturing is of pull request 43862, February 2026.
KNOWN = {
    "huggingface_hub.dataclasses": {"strict": (5, 0)},
    "transformers": {"PreTrainedConfig": (5, 0), "AutoModel": (5, 0), "initialization": (5, 0)},
    "transformers.activations": {"ACT2FN": (5, 0)},
    "transformers.cache_utils": {"Cache": (5, 0), "DynamicCache": (5, 0)},
    "transformers.generation": {"GenerationMixin": (5, 0)},
    "transformers.integrations": {"use_experts_implementation": (5, 0)},
    "transformers.masking_utils": {"create_causal_mask": (5, 0), "create_sliding_window_causal_mask": (5, 0)},
    "transformers.modeling_layers": {
        "GenericForQuestionAnswering": (5, 0),
        "GenericForSequenceClassification": (5, 0),
        "GenericForTokenClassification": (5, 0),
        "GradientCheckpointingLayer": (5, 0),
    },
    "transformers.modeling_outputs": {"MoeCausalLMOutputWithPast": (5, 0), "MoeModelOutputWithPast": (5, 0)},
    "transformers.modeling_rope_utils": {
        "ROPE_INIT_FUNCTIONS": (5, 0),
        "RopeParameters": (5, 0),
        "dynamic_rope_update": (5, 0),
    },
    "transformers.modeling_utils": {"ALL_ATTENTION_FUNCTIONS": (5, 0), "PreTrainedModel": (5, 0)},
    "transformers.models.mixtral.modeling_mixtral": {"load_balancing_loss_func": (5, 0)},
    "transformers.processing_utils": {"Unpack": (5, 0)},
    "transformers.utils": {"TransformersKwargs": (5, 0), "can_return_tuple": (5, 0), "is_tracing": (5, 0)},
    "transformers.utils.generic": {"merge_with_config_defaults": (5, 2)},
    "transformers.utils.output_capturing": {"OutputRecorder": (5, 2), "capture_outputs": (5, 2)},
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 16
LINEAR = {"rope_type": "linear", "rope_theta": 7000.0, "factor": 2.0}
NARROW = {**EXPERTS, "intermediate_size": 24, "router_z_loss_coef": 0.0}
EXPORTS = {
    "llama": ("llama", {**MODERN, "rope_parameters": {"rope_type": "default", "rope_theta": 123456.0}}),
    "llama-tied": ("llama", {**MODERN, "tie_word_embeddings": True, "attention_bias": True}),
    "llama-llama3": ("llama", {**MODERN, "rope_parameters": LLAMA3}),
    "llama-linear": ("llama", {**MODERN, "rope_parameters": LINEAR}),
    "llama-yarn": ("llama", FAMILIES["yarn"]),
    "llama-dynamic": ("llama", FAMILIES["dynamic"]),
    "qwen3": ("qwen3", {**FAMILIES["qk-norm"], "rope_parameters": LINEAR}),
    "mixtral": ("mixtral", {**NARROW, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}),
    "gpt2": ("gpt2", CLASSIC),
    "gpt2-untied": ("gpt2", {**CLASSIC, "tie_word_embeddings": False}),
    **{f"self-{family}": ("self-contained", shape) for family, shape in FAMILIES.items()},
    "self-llama3": ("self-contained", {**MODERN, "rope_parameters": LLAMA3}),
}
# The other families and RoPE types are exported as these are.
QUICK = {
    "llama",
    "llama-llama3",
    "qwen3",
    "mixtral",
    "gpt2",
    "self-modern",
    "self-gpt1",
    "self-sinks",
    "self-moe-shared",
}
CASES = [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in EXPORTS]
every_export = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["where the red hen lives, the hens live there"] * 9, 300, 64)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer):
    """Each case's folder, made when it is first asked for, with the model that it was made from."""
    made = {}

    def export(case):
        if case not in made:
            target, shape = EXPORTS[case]
            model, folder = build(shape, vocab_size=300), tmp_path_factory.mktemp(case)
            model.save_pretrained(folder / "ours")
            tokenizer.save_pretrained(folder / "ours")
            made[case] = folder / "theirs", model, export_checkpoint(folder / "ours", target, folder / "theirs")
        return made[case]

    return export


@pytest.fixture
def remove_project(monkeypatch):
    """A function after which this project cannot be imported."""

    class Blocked:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.split(".")[0] == "alignment":
                raise ModuleNotFoundError(name)

    def remove():
        for name in [name for name in sys.modules if name.split(".")[0] == "alignment"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Blocked, *sys.meta_path])

    return remove


def load_code(folder, monkeypatch):
    """Import the code in a folder as a package of its own, without what is new in transformers 5.20; its models."""
    monkeypatch.delattr(transformers.modeling_utils, "slice_logits_to_keep", raising=False)
    name = f"code_{uuid.uuid4().hex}"
    package = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, None, is_package=True))
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, name, package)
    return importlib.import_module(f"{name}.modeling_gpt")


@every_export
def test_an_export_loads_where_this_project_is_not(case, exported, remove_project, monkeypatch):
    folder, ours, done = exported(case)
    remove_project()
    if EXPORTS[case][0] == "self-contained":
        code = load_code(folder, monkeypatch)
        theirs = code.GPTForCausalLM.from_pretrained(folder, config=code.GPTConfig.from_pretrained(folder))
        assert type(theirs).__module__.startswith("code_")
    else:
        theirs = AutoModelForCausalLM.from_pretrained(folder)
        assert type(theirs).__name__ == done.architecture
    ids = token_ids(2, 12)
    torch.testing.assert_close(theirs.eval()(ids).logits, ours(ids).logits, rtol=0, atol=1e-5)
    for kept in (1, 3, torch.tensor([2, 5]), torch.tensor([[0, 3], [2, 11]])):
        found = theirs(ids, logits_to_keep=kept).logits
        torch.testing.assert_close(found, ours(ids, logits_to_keep=kept).logits, rtol=0, atol=1e-5)


@every_export
def test_earlier_readers_find_the_same_rope(case, exported):
    folder, ours, _ = exported(case)
    config = json.loads((folder / "config.json").read_text())
    rope = ours.config.rope_parameters
    if rope is None:
        assert not {"rope_theta", "rope_scaling"} & set(config) and config.get("rope_parameters") is None
        return
    # Llama 2, Qwen3 and Mixtral in transformers 4: these two keys, with defaults of their own if they are missing.
    assert config["rope_theta"] == rope["rope_theta"]
    scaled = {name: value for name, value in rope.items() if name != "rope_theta"}
    assert config.get("rope_scaling") == (None if rope["rope_type"] == "default" else scaled)
    assert config["rope_parameters"] == rope
    assert config.get("original_max_position_embeddings") == (16 if rope["rope_type"] == "llama3" else None)
    assert AutoConfig.from_pretrained(folder).rope_parameters == rope
    # Without the newer key, as such a reader writes it again:
    (folder.parent / "earlier").mkdir(exist_ok=True)
    earlier = {name: value for name, value in config.items() if name != "rope_parameters"}
    (folder.parent / "earlier" / "config.json").write_text(json.dumps(earlier))
    assert AutoConfig.from_pretrained(folder.parent / "earlier").rope_parameters == rope


@pytest.mark.parametrize("case", ["llama-llama3", "qwen3"])
def test_an_export_comes_back_as_it_was(case, exported, tmp_path):
    folder, ours, _ = exported(case)
    import_checkpoint(folder, tmp_path / "back")
    back = GPTForCausalLM.from_pretrained(tmp_path / "back")
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in ours.state_dict().items())
    assert back.config.rope_parameters == ours.config.rope_parameters


@every_export
def test_the_tokenizer_has_names_that_transformers_4_knows(case, exported, tokenizer):
    folder, _, done = exported(case)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in written  # a list of them is an error in transformers 4
    assert written["additional_special_tokens"] == ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    loaded = AutoTokenizer.from_pretrained(folder)
    text = " the hen\n\n lives at 1234, n'est-ce pas?<|end|>Ünïcode "
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.extra_special_tokens == tokenizer.extra_special_tokens
    assert done.llama_cpp == (None if case.startswith("self") else "gpt-2")
    assert ("llama.cpp" in str(done)) == (done.llama_cpp is not None)


def imports(source):
    """(module, name) of each import at run time of other packages' names."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and id(node) not in typing_only:
            yield from ((node.module, alias.name) for alias in node.names)


def test_exported_code_imports_names_of_the_oldest_version_that_it_says():
    found = {
        (module, name)
        for source in code_files().values()
        for module, name in imports(source)
        if module.split(".")[0] in ("transformers", "huggingface_hub")
    }
    unknown = {(module, name) for module, name in found if name not in KNOWN.get(module, {})}
    assert not unknown, "not known to be in transformers 5.0: add them to the table once it is known since when"
    assert max(KNOWN[module][name] for module, name in found) <= OLDEST_TRANSFORMERS
    others = {module.split(".")[0] for source in code_files().values() for module, _ in imports(source)}
    assert others - set(sys.stdlib_module_names) == {"torch", "transformers", "huggingface_hub"}


def test_an_older_transformers_is_named(exported, monkeypatch):
    folder, *_ = exported("self-modern")
    installed = sys.modules["transformers"]  # transformers replaces itself there once it is imported
    monkeypatch.setattr(installed, "__version__", "5.3.1")
    with pytest.raises(ImportError, match=r"needs transformers 5\.4 or later.*5\.3\.1"):
        load_code(folder, monkeypatch)
    monkeypatch.setattr(installed, "__version__", "5.19.0.dev0")
    load_code(folder, monkeypatch)


@pytest.mark.parametrize(
    "kept",
    [
        0,
        1,
        5,
        torch.tensor([0, 3]),
        torch.tensor([[1, 2], [0, 6]]),
        torch.tensor([[True] + [False] * 6, [True] * 7]),
    ],
    ids=["all", "last", "five", "indices", "indices-of-rows", "mask"],
)
def test_kept_positions_are_transformers(kept):
    hidden = torch.randn(2, 7, 4)
    expected = transformers.modeling_utils.slice_logits_to_keep(hidden, kept)
    torch.testing.assert_close(at_positions(hidden, kept), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [GPTModel, GPTForSequenceClassification])
def test_other_heads_are_exported_alike(kind, tmp_path, remove_project, monkeypatch):
    model = build(FAMILIES["moe-shared"], cls=kind)
    model.save_pretrained(tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", "self-contained", tmp_path / "theirs")
    remove_project()
    code = load_code(tmp_path / "theirs", monkeypatch)
    theirs = getattr(code, kind.__name__).from_pretrained(
        tmp_path / "theirs", config=code.GPTConfig.from_pretrained(tmp_path / "theirs")
    )
    ids = token_ids(1, 9)  # as vLLM calls the base model
    found = theirs.eval()(ids, position_ids=torch.arange(9)[None], use_cache=False, return_dict=False)
    torch.testing.assert_close(found[0], model(ids)[0], rtol=0, atol=1e-5)


def split(pattern, **changes):
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    return {"pre_tokenizer": pre_tokenizers.Sequence(steps), **changes}


def byte_level(**options):
    return {"pre_tokenizer": pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": True} | options)}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (byte_level(), "gpt-2"),
        (byte_level(add_prefix_space=True), None),
        (byte_level(use_regex=False), None),
        (split(GPT2), "gpt-2"),
        (split(MODERN_SPLIT.format(digits=r"\p{N}{1,3}")), "llama-bpe"),
        (split(MODERN_SPLIT.format(digits=r"\p{N}")), "qwen2"),
        (split(r"\s+"), None),
        (split(GPT2, normalizer=normalizers.NFC()), None),
        ({"pre_tokenizer": pre_tokenizers.Whitespace()}, None),
        ({}, None),
    ],
)
def test_the_pre_tokenizer_is_named_as_llama_cpp_names_it(parts, expected):
    backend = Tokenizer(models.BPE())
    for name, part in parts.items():
        setattr(backend, name, part)
    assert llama_cpp_pre_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend)) == expected


def test_a_tokenizer_of_characters_has_no_name_in_llama_cpp():
    assert llama_cpp_pre_tokenizer(character_tokenizer(["abc"], 64)) is None
