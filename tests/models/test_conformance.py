"""The conventions of transformers' model classes, over every family and RoPE type: see docs/model.md."""

import copy
import re

import pytest
import torch
from gpt_tiny import CLASSIC, EXPERTS, FAMILIES, MODERN, build, token_ids
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig
from transformers.distributed import tensor_parallel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from alignment.models.gpt import (
    GPTConfig,
    GPTForCausalLM,
    GPTForQuestionAnswering,
    GPTForSequenceClassification,
    GPTForTokenClassification,
    GPTModel,
)
from alignment.models.gpt.modeling_gpt import GPTRotaryEmbedding

CLASSES = (
    GPTModel,
    GPTForCausalLM,
    GPTForSequenceClassification,
    GPTForTokenClassification,
    GPTForQuestionAnswering,
)
# Combinations of options that the families do not have.
SHAPES = FAMILIES | {
    "tied": {**MODERN, "tie_word_embeddings": True},
    "untied-gpt2": {**CLASSIC, "tie_word_embeddings": False},
    "biases": {**MODERN, "attention_bias": True, "mlp_bias": True},
    "plain-mlp": {**MODERN, "mlp_type": "mlp"},
    "rope-layernorm": {**MODERN, "norm_type": "layernorm", "norm_placement": "post", "qk_norm": True},
    "gated-learned": {**CLASSIC, "mlp_type": "gated", "norm_type": "rmsnorm"},
    "moe-windows": {**EXPERTS, "sliding_window": 4, "attention_sinks": True, "tie_word_embeddings": True},
    "moe-shared-everywhere": {**EXPERTS, "num_shared_experts": 1, "mlp_layer_types": ["sparse", "sparse"]},
    "moe-learned": {**EXPERTS, "position_embedding_type": "learned", "norm_placement": "post"},
}
SCALED = {"rope_theta": 5000.0, "factor": 4.0}
ROPES = {
    "default": {"rope_theta": 5000.0},
    "linear": SCALED,
    "dynamic": SCALED,
    "yarn": SCALED | {"original_max_position_embeddings": 16},
    "yarn-of-the-context": SCALED,
    "yarn-attention": SCALED | {"attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 2.0},
    "longrope": {
        "rope_theta": 5000.0,
        "factor": 4.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 16,
    },
    "llama3": SCALED | {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "proportional": {"rope_theta": 5000.0},
}
# Of the families, some stand for the others in fast runs.
QUICK = {*SHAPES} - {*FAMILIES} | {"gpt2", "modern", "sinks", "moe-shared"}


def slow_unless_quick(names, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


every_shape = pytest.mark.parametrize("name", slow_unless_quick(SHAPES, QUICK))
every_rope = pytest.mark.parametrize("rope", ROPES)
MOE = [name for name, shape in SHAPES.items() if shape.get("num_experts")]
sparse_shapes = pytest.mark.parametrize("name", slow_unless_quick(MOE, {"moe", "moe-shared", "moe-windows"}))


def rope_of(name: str) -> dict:
    return {"rope_type": name.split("-")[0], **ROPES[name]}


def positions(length: int) -> torch.Tensor:
    return torch.arange(length)[None]


@pytest.fixture(scope="module")
def models():
    """The model of each shape, built once."""
    return {name: build(shape) for name, shape in SHAPES.items()}


@every_rope
@pytest.mark.parametrize("length", [10, 96], ids=["short", "beyond"])
def test_the_rotary_module_is_called_and_answers_as_llamas(rope, length):
    ours = GPTRotaryEmbedding(GPTConfig(**MODERN, rope_parameters=rope_of(rope)))
    sizes = {name: MODERN[name] for name in ("hidden_size", "num_attention_heads", "max_position_embeddings")}
    theirs = LlamaRotaryEmbedding(LlamaConfig(**sizes, rope_parameters=rope_of(rope)))
    found, expected = ours(torch.zeros(1), positions(length)), theirs(torch.zeros(1), positions(length))
    assert found[0].shape == (1, length, ours.config.head_dim)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    half = ours(torch.zeros(1, dtype=torch.bfloat16), positions(length).repeat(3, 1))
    assert all(one.dtype == torch.bfloat16 and one.shape[0] == 3 for one in half)
    for name in ("inv_freq", "original_inv_freq"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    assert (ours.rope_type, ours.attention_scaling) == (theirs.rope_type, theirs.attention_scaling)


def test_scalings_change_the_frequencies_as_their_papers_say():
    def rotary(kind, **more):
        rope = {"rope_type": kind, "rope_theta": 10_000.0, "partial_rotary_factor": 1.0, **more}
        return GPTRotaryEmbedding(GPTConfig(**MODERN, rope_parameters=rope))

    at = positions(96)
    plain, linear = rotary("default")(torch.zeros(1), at), rotary("linear", factor=10)(torch.zeros(1), at)
    for one, scaled in zip(plain, linear, strict=True):
        torch.testing.assert_close(scaled[:, ::10], one[:, :10])
    dynamic, original = rotary("dynamic", factor=10), rotary("default")
    torch.testing.assert_close(dynamic(torch.zeros(1), at[:, :10])[0], plain[0][:, :10])
    assert not torch.allclose(dynamic(torch.zeros(1), at)[0], plain[0])
    assert (dynamic.inv_freq <= original.inv_freq).all()
    torch.testing.assert_close(dynamic(torch.zeros(1), at[:, :10])[0], plain[0][:, :10])  # it goes back
    yarn = rotary("yarn", factor=10)
    assert not torch.allclose(yarn(torch.zeros(1), at)[0], plain[0])
    torch.testing.assert_close(yarn(torch.zeros(1), at[:, :10])[1], yarn(torch.zeros(1), at)[1][:, :10])


def test_a_layer_takes_the_rotary_modules_answer_as_it_is(models):
    model, ids = models["modern"].model, token_ids(2, 9)
    hidden = model.embed_tokens(ids)
    rotation = model.rotary_emb(hidden, positions(9))
    for layer in model.layers:
        hidden = layer(hidden, position_embeddings=rotation, attention_mask=None)
    torch.testing.assert_close(model.norm(hidden), model(ids).last_hidden_state)


@every_rope
def test_a_saved_model_turns_as_before(rope, tmp_path):
    model, ids = build({**MODERN, "rope_parameters": rope_of(rope)}), token_ids(2, 12)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.rope_parameters == model.config.rope_parameters
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=0)
    longer = token_ids(1, 40)
    torch.testing.assert_close(loaded(longer).logits, model(longer).logits, rtol=0, atol=0)


ASKED = {  # (config, argument) -> whether router logits are returned in evaluation without labels
    (None, None): False,
    (True, None): True,
    (False, None): False,
    (False, True): True,
    (True, False): False,
    (None, True): True,
    (None, False): False,
}


@sparse_shapes
@pytest.mark.parametrize(("config", "argument"), ASKED)
def test_router_logits_follow_the_config_unless_the_caller_decides(models, name, config, argument):
    model, ids = copy.deepcopy(models[name]), token_ids(2, 7)
    model.config.output_router_logits = config
    more = {} if argument is None else {"output_router_logits": argument}
    output = model(ids, **more)
    assert (output.router_logits is not None) == (output.aux_loss is not None) == ASKED[config, argument]
    torch.testing.assert_close(output.logits, models[name](ids).logits, rtol=0, atol=0)
    if ASKED[config, argument]:
        sparse = model.config.mlp_layer_types.count("sparse")
        assert [logits.shape for logits in output.router_logits] == [(14, 4)] * sparse and output.aux_loss > 0


@sparse_shapes
@pytest.mark.parametrize("config", slow_unless_quick([True, None, False], {True}))
def test_what_the_config_says_of_router_logits_changes_no_reply(models, name, config):
    model = copy.deepcopy(models[name])
    model.config.output_router_logits = config
    ids, mask = token_ids(2, 6), torch.ones(2, 6, dtype=torch.long)
    ids[0, :3], mask[0, :3] = 0, 0
    for options in ({}, {"cache_implementation": "static", "disable_compile": True}, {"use_cache": False}):
        greedy = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, **options}
        expected = models[name].generate(ids, attention_mask=mask, **greedy)
        assert model.generate(ids, attention_mask=mask, **greedy).tolist() == expected.tolist()


@sparse_shapes
def test_a_head_and_the_base_follow_the_config_too(models, name):
    base, ids = copy.deepcopy(models[name].model), token_ids(2, 7)
    assert base(ids).router_logits is None
    assert len(base(ids, output_router_logits=True).router_logits) > 0
    base.config.output_router_logits = True
    assert len(base(ids).router_logits) > 0
    assert base(ids, output_router_logits=False).router_logits is None


@pytest.mark.parametrize("training", [True, False])
def test_the_default_is_the_loss_of_before(models, training):
    model, ids = copy.deepcopy(models["moe"]).train(training), token_ids(2, 7)
    output, silent = model(ids, labels=ids), model(ids, labels=ids, output_router_logits=False)
    added = model.config.router_aux_loss_coef * output.aux_loss if training else 0.0
    torch.testing.assert_close(output.loss, silent.loss + added)
    model.config.output_router_logits = False
    torch.testing.assert_close(model(ids, labels=ids).loss, silent.loss, rtol=0, atol=0)


def test_a_dense_model_has_an_empty_answer_to_who_asks_for_router_logits(models):
    model, ids = copy.deepcopy(models["modern"]), token_ids(2, 7)
    model.config.output_router_logits = True
    output = model.train()(ids, labels=ids)
    assert (output.router_logits, output.aux_loss.item()) == ((), 0.0)
    torch.testing.assert_close(output.loss, model(ids, labels=ids, output_router_logits=False).loss, rtol=0, atol=0)
    assert models["modern"](ids).aux_loss is None


def wildcards(names) -> set[str]:
    return {re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names}


@every_shape
@pytest.mark.parametrize("cls", slow_unless_quick(CLASSES, {GPTForCausalLM, GPTForSequenceClassification}))
def test_the_tensor_parallel_plan_is_of_the_shape(name, cls):
    with torch.device("meta"):
        model = cls(GPTConfig(**SHAPES[name]))
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    names = wildcards([*modules, *parameters])
    assert set(model.tp_plan) <= names
    assert set(model.tp_plan.values()) <= set(tensor_parallel.ALL_PARALLEL_STYLES.keys())
    planned = wildcards(
        parameter
        for parameter in parameters
        if {*wildcards([parameter]), *wildcards([parameter.rsplit(".", 1)[0]])} & set(model.tp_plan)
    )
    matrices = wildcards(
        n for n, p in parameters.items() if ".layers." in f".{n}" and p.ndim > 1 and "mlp.gate." not in n
    )
    assert matrices <= planned  # each matrix of a layer is split, except routers
    assert set(model.config.base_model_pp_plan) <= set(dict(getattr(model, "model", model).named_children()))


@every_shape
def test_the_plan_is_no_part_of_a_saved_config(name, tmp_path):
    config = GPTConfig(**SHAPES[name])
    config.save_pretrained(tmp_path)
    assert "plan" not in (tmp_path / "config.json").read_text()
    loaded = GPTConfig.from_pretrained(tmp_path)
    assert loaded.base_model_tp_plan == config.base_model_tp_plan == copy.deepcopy(config).base_model_tp_plan
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}


@every_shape
def test_saved_and_loaded(models, name, tmp_path):
    models[name].save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = token_ids(2, 9)
    torch.testing.assert_close(loaded(ids).logits, models[name](ids).logits, rtol=0, atol=0)
    tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert tied == SHAPES[name].get("tie_word_embeddings", False)
    base = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(base(ids).last_hidden_state, models[name].model(ids).last_hidden_state, rtol=0, atol=0)


@every_shape
@pytest.mark.parametrize("tokens", slow_unless_quick([130, 64], {130}), ids=["more", "fewer"])
def test_resized_embeddings_keep_the_tokens_that_stay(models, name, tokens):
    model, kept = copy.deepcopy(models[name]), min(tokens, 96)
    ids = token_ids(2, 8).clamp(max=kept - 1)
    expected = models[name](ids).logits[..., :kept]
    model.resize_token_embeddings(tokens, mean_resizing=False)
    assert model.config.vocab_size == model.get_output_embeddings().weight.shape[0] == tokens
    torch.testing.assert_close(model(ids).logits[..., :kept], expected, rtol=0, atol=1e-5)
    assert model(torch.full((1, 2), tokens - 1), labels=torch.full((1, 2), tokens - 1)).loss.isfinite()
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == SHAPES[name].get("tie_word_embeddings", False)


@every_shape
def test_a_batch_is_its_rows(models, name):
    model, ids = models[name], token_ids(3, 9)
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, 6:] = 0
    logits = model(ids, attention_mask=mask).logits
    for row in range(3):
        real = mask[row] == 1
        torch.testing.assert_close(logits[row, real], model(ids[row, real][None]).logits[0], rtol=0, atol=1e-4)


@every_shape
def test_hidden_states_and_attentions_have_their_shapes(models, name):
    model, ids = copy.deepcopy(models[name]), token_ids(2, 7)
    model.set_attn_implementation("eager")
    output = model(ids, output_hidden_states=True, output_attentions=True)
    assert [states.shape for states in output.hidden_states] == [(2, 7, 32)] * 3
    assert [weights.shape for weights in output.attentions] == [(2, 4, 7, 7)] * 2
    plain = model(ids, return_dict=False)
    torch.testing.assert_close(plain[0], output.logits)
    assert model(ids).hidden_states is None


@every_shape
def test_generation_from_embeddings_is_generation_from_ids(models, name):
    ids = token_ids(1, 6)
    greedy = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "attention_mask": torch.ones_like(ids)}
    expected = models[name].generate(ids, **greedy)[:, 6:]
    embedded = models[name].generate(inputs_embeds=models[name].get_input_embeddings()(ids), **greedy)
    assert embedded.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_config_makes_a_model_of_a_type(dtype):
    for shape in (MODERN, CLASSIC, EXPERTS):
        model = AutoModelForCausalLM.from_config(GPTConfig(**shape), dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype} == {model.dtype}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "sliding", "moe")])
def test_exported_graphs_compute_the_same(models, name):
    ids = token_ids(2, 8)
    graph = torch.export.export(models[name], (ids,), {"use_cache": False}, strict=False).module()
    torch.testing.assert_close(graph(ids, use_cache=False).logits, models[name](ids).logits, rtol=0, atol=1e-5)


@every_shape
def test_a_classifier_scores_each_row_alone(name):
    model = build(SHAPES[name], cls=GPTForSequenceClassification, num_labels=3)
    ids = token_ids(2, 8).clamp(min=3)
    padded = ids.clone()
    padded[1, 5:] = 0
    alone = [model(ids[:1]).logits, model(ids[1:, :5]).logits]
    found = model(padded, attention_mask=(padded != 0).long()).logits
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-4)
