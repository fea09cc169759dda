"""What the GPT computes, against references: Llama, GPT-2, itself uncached, unpadded, unpacked."""

import copy
import math

import pytest
import torch
from gpt_tiny import (
    CLASSIC,
    EXPERTS,
    FAMILIES,
    MODERN,
    SIZES,
    TOKENS,
    assert_same_gradients,
    build,
    gradients,
    randomise,
    token_ids,
)
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, StaticCache

from alignment.errors import UserError
from alignment.models.gpt import (
    GPTConfig,
    GPTForCausalLM,
    GPTForSequenceClassification,
    GPTForTokenClassification,
    GPTModel,
)
from alignment.models.gpt.modeling_gpt import GPTConvolution, router_losses

both_shapes = pytest.mark.parametrize("shape", [MODERN, CLASSIC], ids=["modern", "classic"])
SLOW = pytest.mark.slow
every_family = pytest.mark.parametrize("shape", FAMILIES.values(), ids=FAMILIES)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16},
        {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_llama_weights_give_llama_logits(rope):
    shape = {**SIZES, **TOKENS, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-4}
    llama = randomise(LlamaForCausalLM(LlamaConfig(**shape, attention_bias=True, rope_parameters=dict(rope))))
    ours = build(shape, attention_bias=True, rope_parameters=dict(rope))
    ours.load_state_dict(llama.state_dict())
    ids = token_ids(2, 80)  # past max_position_embeddings, where the dynamic kind rescales
    # Llama rounds its norms to float32 whatever the type: up to 1.3e-5 of logits around 5, by processor.
    torch.testing.assert_close(ours.double()(ids).logits, llama.double()(ids).logits, rtol=0, atol=5e-5)


def classic_weights(foreign, output_layer):
    """GPT-1's and GPT-2's parameters under our names: matrices transposed, and one holds queries, keys and values."""
    names = {"wte": "embed_tokens", "wpe": "embed_positions", "ln_f": "norm", "h": "layers", "ln_1": "input_layernorm"}
    names |= {"ln_2": "post_attention_layernorm", "attn": "self_attn", "c_fc": "up_proj"}
    weights = {}
    for name, value in foreign.items():
        inside_mlp = ".mlp." in name
        parts = [names.get(part, part) for part in name.split(".")]
        parts = [("down_proj" if inside_mlp else "o_proj") if part == "c_proj" else part for part in parts]
        matrix = parts[-1] == "weight" and parts[-2] in ("c_attn", "o_proj", "up_proj", "down_proj")
        value = value.T if matrix else value
        if parts[-2] == "c_attn":
            for projection, piece in zip("qkv", value.chunk(3), strict=True):
                weights["model." + ".".join([*parts[:-2], projection + "_proj", parts[-1]])] = piece
        else:
            weights["model." + ".".join(parts)] = value
    return weights | {"lm_head.weight": output_layer}


def test_gpt2_weights_give_gpt2_logits():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    gpt2 = randomise(GPT2LMHeadModel(GPT2Config(vocab_size=96, n_inner=48, **sizes, bos_token_id=1, eos_token_id=2)))
    ours = build({**CLASSIC, **sizes})
    ours.load_state_dict(classic_weights(gpt2.transformer.state_dict(), gpt2.lm_head.weight))
    ids = token_ids(2, 40)
    torch.testing.assert_close(ours.double()(ids).logits, gpt2.double()(ids).logits, rtol=0, atol=1e-5)


@every_family
@pytest.mark.parametrize("backend", ["sdpa", "flex_attention"])
def test_backends_are_eager_written_out(shape, backend):
    """Flex attention runs uncompiled: masks and scores are the model's, and compiling takes seconds per family."""
    if backend in refused_backends(shape):
        pytest.skip("refused by name: see test_a_backend_that_cannot_honour_an_option_is_refused")
    with torch.compiler.set_stance("force_eager"):
        assert_as_eager(shape, backend)


@pytest.mark.parametrize("family", [pytest.param(name, marks=[] if name == "sliding" else SLOW) for name in FAMILIES])
def test_compiled_flex_attention_is_eager_written_out(family):
    if "flex_attention" in refused_backends(FAMILIES[family]):
        pytest.skip("refused by name: see test_a_backend_that_cannot_honour_an_option_is_refused")
    assert_as_eager(FAMILIES[family], "flex_attention")


def assert_as_eager(shape, backend):
    """A backend's logits of a padded batch, and its gradients if it has them, are those of eager attention."""
    other, eager = build(shape, attn_implementation=backend), build(shape, attn_implementation="eager")
    assert (other.config._attn_implementation, eager.config._attn_implementation) == (backend, "eager")
    ids, mask = token_ids(2, 20), torch.ones(2, 20, dtype=torch.long)
    mask[0, 15:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    learns = backend == "sdpa"  # flex attention has no backward pass on CPU
    with torch.set_grad_enabled(learns):
        outputs = [model(ids, attention_mask=mask, labels=labels) for model in (other, eager)]
    torch.testing.assert_close(outputs[0].logits[mask == 1], outputs[1].logits[mask == 1], rtol=0, atol=1e-5)
    if learns:
        assert_same_gradients(gradients(other, outputs[0].loss), gradients(eager, outputs[1].loss))


def refused_backends(shape) -> list[str]:
    if shape.get("attention_sinks"):
        return ["sdpa", "flex_attention"]
    return ["sdpa"] if shape.get("attn_logit_softcapping") else []


@pytest.mark.parametrize("family", ["sinks", "softcap"])
def test_a_backend_that_cannot_honour_an_option_is_refused(family):
    option = {"sinks": "attention_sinks", "softcap": "attn_logit_softcapping"}[family]
    model, ids = build(FAMILIES[family]), token_ids(1, 5)
    assert model.config._attn_implementation == "eager"  # chosen where nothing is asked for
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        model.set_attn_implementation("sdpa")
    model.config._attn_implementation = "sdpa"  # behind transformers' back
    with pytest.raises(UserError, match=f"'sdpa' cannot honour {option}"):
        model(ids)


def test_sinks_take_attention_from_the_tokens():
    model, ids = build(FAMILIES["sinks"], num_hidden_layers=1, layer_types=["full_attention"]), token_ids(1, 6)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        attention.sinks.copy_(torch.tensor([-100.0, 0.0, 1.0, 100.0]))
    weights = model(ids, output_attentions=True).attentions[0]
    given = weights.sum(-1)[0]  # (heads, seq): what is left for the tokens
    torch.testing.assert_close(given[0], torch.ones(6))
    assert (given[1] < 1).all() and (given[2] < 1).all()
    torch.testing.assert_close(given[3], torch.zeros(6))
    # By hand: the softmax over the scores and the sink's logit.
    scores = []
    for sink in (-100.0, 1.0):
        attention.sinks.data.fill_(sink)
        scores.append(model(ids, output_attentions=True).attentions[0])
    plain, sunk = scores
    ratio = sunk[0, 0, -1] / plain[0, 0, -1]
    torch.testing.assert_close(ratio, ratio[:1].expand(6))


def test_softcaps_bound_scores_and_logits():
    capped, ids = build(FAMILIES["softcap"]), token_ids(1, 8)
    plain = build({**FAMILIES["softcap"], "final_logit_softcapping": None})
    torch.testing.assert_close(capped(ids).logits, 3.0 * torch.tanh(plain(ids).logits / 3.0))
    attention = build(FAMILIES["softcap"], attn_logit_softcapping=0.1).model.layers[0].self_attn
    weights = attention(torch.randn(1, 4, 32) * 50)[1]  # every score within 0.1 of zero, so weights are nearly even
    assert (weights.amax(-1) / weights.amin(-1)).max() <= math.exp(0.2) + 1e-4


def test_a_sliding_layer_sees_its_window():
    model, ids = build(FAMILIES["sliding"], num_hidden_layers=1), token_ids(1, 12)
    changed = ids.clone()
    changed[0, 3] += 1
    before, after = model(ids).logits[0], model(changed).logits[0]
    moved = (before - after).abs().amax(-1) > 1e-4
    assert moved.nonzero().flatten().tolist() == [3, 4, 5, 6, 7]  # itself and the four after it: a window of 5


def test_convolution_by_hand():
    """Each position has the two before it added, feature by feature; before the first there is nothing."""
    convolution = GPTConvolution((1, 1, 1), 3, layer_idx=0)
    convolution.weight.data = torch.tensor([[0.0, 0.5, 0.0], [10.0, 0.0, 0.0], [100.0, 0.0, -1.0]])
    query, key, value = (torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1) for _ in range(3))
    query, key, value = convolution((query, key, value))
    assert query.flatten().tolist() == [1.0, 12.0, 123.0, 234.0]
    assert key.flatten().tolist() == [1.5, 3.0, 4.5, 6.0]
    assert value.flatten().tolist() == [1.0, 2.0, 2.0, 2.0]


def test_a_new_convolution_changes_nothing():
    torch.manual_seed(0)
    plain = GPTForCausalLM(GPTConfig(**MODERN)).eval()
    convolved = GPTForCausalLM(GPTConfig(**MODERN, qkv_conv_size=4)).eval()
    left = convolved.load_state_dict(plain.state_dict(), strict=False)
    assert set(left.missing_keys) == {f"model.layers.{layer}.self_attn.qkv_conv.weight" for layer in (0, 1)}
    ids = token_ids(2, 9)
    torch.testing.assert_close(convolved(ids).logits, plain(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_finished_masks_keep_padding_and_documents_out_of_convolutions(dtype):
    model, documents = build(FAMILIES["conv"]), [token_ids(1, length, seed=length) for length in (5, 4)]
    row = torch.cat((torch.zeros(1, 3, dtype=torch.long), *documents), dim=1)  # padding, and two documents
    owner = torch.tensor([0] * 3 + [1] * 5 + [2] * 4)
    mask = (owner[:, None] == owner) & torch.ones(12, 12, dtype=torch.bool).tril()
    if dtype != torch.bool:
        mask = torch.zeros(12, 12).masked_fill(~mask, torch.finfo(dtype).min)
    positions = torch.cat([torch.arange(length) for length in (3, 5, 4)])[None]
    together = model(row, attention_mask=mask[None, None], position_ids=positions, use_cache=False).logits
    apart = torch.cat([model(document).logits for document in documents], dim=1)
    torch.testing.assert_close(together[:, 3:], apart, rtol=0, atol=2e-5)


def test_generation_with_a_static_cache_keeps_padding_out_of_convolutions():
    """For static caches transformers makes the masks beforehand, those of attention and of convolutions."""
    model, ids = build(FAMILIES["conv"]), token_ids(1, 5)
    padded = torch.cat((torch.full((1, 3), 7), ids), dim=1)
    mask = torch.ones_like(padded).index_fill(1, torch.arange(3), 0)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, 5:]
    static = model.generate(padded, attention_mask=mask, cache_implementation="static", disable_compile=True, **options)
    assert static[0, 8:].tolist() == alone.tolist()


def test_a_finished_mask_for_a_cache_hides_padding_from_convolutions():
    model = build(FAMILIES["conv"])
    start = model(token_ids(1, 4))
    mask = torch.ones(1, 1, 2, 6, dtype=torch.bool)
    with pytest.raises(UserError, match="qkv_conv_size finds no padding"):
        model(token_ids(1, 2), attention_mask=mask, past_key_values=start.past_key_values)


def test_post_norm_is_gpt1():
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    gpt1 = randomise(OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=96, **sizes)))
    weights = {
        name.replace("tokens_embed", "wte").replace("positions_embed", "wpe"): value
        for name, value in gpt1.transformer.state_dict().items()
    }
    ours = build({**FAMILIES["gpt1"], **sizes, "intermediate_size": 128})
    ours.load_state_dict(classic_weights(weights, gpt1.lm_head.weight))
    ids = token_ids(2, 40)
    torch.testing.assert_close(ours.double()(ids).logits, gpt1.double()(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["moe", "moe-shared"])
def test_grouped_experts_are_eager_experts(family):
    model, ids = build(FAMILIES[family]), token_ids(2, 9)
    found = {}
    for implementation in ("eager", "grouped_mm", "batched_mm"):
        model.set_experts_implementation(implementation)
        output = model(ids, labels=ids)
        found[implementation] = output.logits, gradients(model, output.loss)
    for implementation in ("grouped_mm", "batched_mm"):
        torch.testing.assert_close(found[implementation][0], found["eager"][0], rtol=0, atol=1e-5)
        assert_same_gradients(found[implementation][1], found["eager"][1])


def test_experts_by_hand():
    model = build(FAMILIES["moe-shared"])
    mlp, x = model.model.layers[1].mlp, torch.randn(1, 3, 32)
    expected = torch.zeros(1, 3, 32)
    for token in range(3):
        probabilities = (mlp.gate.weight @ x[0, token]).softmax(-1)
        for expert in probabilities.argsort(descending=True)[:2]:
            gate, up = (mlp.experts.gate_up_proj[expert] @ x[0, token]).chunk(2)
            result = mlp.experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up)
            expected[0, token] += probabilities[expert] * result  # norm_topk_prob is off
        expected[0, token] += mlp.shared_experts(x[:, token])[0]
    torch.testing.assert_close(mlp(x), expected, rtol=1e-4, atol=1e-5)


def test_router_losses_by_hand():
    shape = {**EXPERTS, "num_hidden_layers": 1, "router_aux_loss_coef": 0.5, "router_z_loss_coef": 0.25}
    model, ids = build(shape), token_ids(2, 7)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    output = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    logits = output.router_logits[0].reshape(2, 7, 4)
    real = logits[mask == 1]
    chosen = torch.nn.functional.one_hot(real.topk(2).indices, 4).float().mean(0).sum(0)  # share of tokens an expert
    balance = 4 * (chosen * real.softmax(-1).mean(0)).sum()
    z = real.logsumexp(-1).square().mean()
    torch.testing.assert_close(output.aux_loss, balance + 0.25 / 0.5 * z)


def test_the_loss_has_router_losses_in_training_alone_and_by_the_share_of_the_step():
    model, ids = build({**EXPERTS, "router_aux_loss_coef": 0.5}), token_ids(2, 7)
    plain = model(ids, labels=ids, output_router_logits=False).loss
    evaluated = model(ids, labels=ids)
    assert evaluated.aux_loss > 0 and torch.equal(evaluated.loss, plain)
    model.train()
    torch.testing.assert_close(model(ids, labels=ids).loss, plain + 0.5 * evaluated.aux_loss)
    share = model(ids, labels=ids, num_items_in_batch=torch.tensor(48)).loss  # 12 targets of 48
    torch.testing.assert_close(share, (plain + 0.5 * evaluated.aux_loss) / 4)
    targets = ids.masked_fill(torch.arange(7) < 4, -100)  # 6 targets
    part = model(ids, labels=ids, shift_labels=targets, num_items_in_batch=torch.tensor(48))
    whole = model(ids, labels=ids, shift_labels=targets)
    torch.testing.assert_close(part.loss, whole.loss * 6 / 48)


def test_padding_of_packed_rows_is_left_out_of_the_router_losses():
    """Rows as packing makes them, against the same documents without padding."""
    model, ids = build(EXPERTS).train(), token_ids(2, 9)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
    padded = model(ids, position_ids=positions, use_cache=False).aux_loss
    changed = ids.clone()
    changed[0, 6:] = 95
    torch.testing.assert_close(model(changed, position_ids=positions, use_cache=False).aux_loss, padded)
    unpadded = torch.cat((ids[0, :6], ids[1]))[None], torch.cat((positions[0, :6], positions[1]))[None]
    torch.testing.assert_close(model(unpadded[0], position_ids=unpadded[1], use_cache=False).aux_loss, padded)
    assert model(ids[:, :1], position_ids=positions[:, :1], use_cache=False).aux_loss.isfinite()


def test_router_losses_of_cached_tokens_are_of_these_tokens():
    model, ids = build({**EXPERTS, "router_z_loss_coef": 0.0}), token_ids(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    start = model(ids[:, :6], attention_mask=mask[:, :6])
    options = {"past_key_values": start.past_key_values, "output_router_logits": True}
    following = model(ids[:, 6:], attention_mask=mask, **options)
    balance = []
    for logits in following.router_logits:
        chosen = torch.nn.functional.one_hot(logits.topk(2).indices, 4).float().mean(0).sum(0)
        balance.append(4 * (chosen * logits.softmax(-1).mean(0)).sum())
    torch.testing.assert_close(following.aux_loss, torch.stack(balance).mean())


def test_one_layers_favourite_expert_does_not_make_up_for_anothers():
    config = GPTConfig(**EXPERTS, router_z_loss_coef=0.0)
    first, last = torch.tensor([[9.0, 9.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    one_sided, opposite = router_losses((first, first), config), router_losses((first, last), config)
    torch.testing.assert_close(opposite, one_sided)
    assert opposite > 1.9 * router_losses((torch.zeros(1, 4), torch.zeros(1, 4)), config)


def test_a_dense_model_has_no_router_losses():
    config = build(MODERN).config
    assert (config.router_aux_loss_coef, config.output_router_logits) == (0.0, False)


@every_family
def test_later_tokens_change_nothing_before_them(shape):
    model, ids = build(shape), token_ids(1, 12)
    changed = ids.clone()
    changed[0, 7] += 1
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 1e-3


@every_family
def test_left_padding_changes_nothing(shape):
    model, ids = build(shape), token_ids(1, 10)
    padded = torch.cat((torch.zeros(1, 6, dtype=torch.long), ids), dim=1)
    mask = (padded != 0).long()
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 6:], model(ids).logits, rtol=0, atol=2e-5)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert model.generate(padded, attention_mask=mask, **options)[0, 6:].tolist() == alone[0].tolist()


@every_family
@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no-cache"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_are_separate_documents(shape, use_cache, attention):
    if attention in refused_backends(shape):
        pytest.skip("refused by name")
    # The balance of experts is over a batch, not over a document.
    shape = {**shape, "output_router_logits": False}
    model = build(shape, attn_implementation=attention)
    documents = [token_ids(1, length, seed=length) for length in (5, 9, 3)]
    packed = torch.cat(documents, dim=1)
    positions = torch.cat([torch.arange(document.shape[1]) for document in documents]).unsqueeze(0)
    # As packing collators do: the first token of a document is not predicted from the one before it.
    labels = packed.masked_fill(positions == 0, -100)
    together = model(packed, position_ids=positions, labels=labels, use_cache=use_cache)
    apart = [model(document, labels=document, use_cache=False) for document in documents]
    torch.testing.assert_close(together.logits, torch.cat([o.logits for o in apart], dim=1), rtol=0, atol=2e-5)
    counts = [document.shape[1] - 1 for document in documents]
    loss = sum(output.loss * count for output, count in zip(apart, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(together.loss, loss)
    assert_same_gradients(gradients(model, together.loss), gradients(model, loss))


@every_family
def test_cached_generation_is_uncached_argmax(shape):
    model, ids = build(shape), token_ids(2, 6)
    expected = ids
    for _ in range(12):
        following = model(expected, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat((expected, following), dim=1)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    mask = torch.ones_like(ids)
    assert model.generate(ids, attention_mask=mask, **options).tolist() == expected.tolist()
    static = model.generate(ids, attention_mask=mask, cache_implementation="static", **options)
    assert static.tolist() == expected.tolist()


@every_family
@pytest.mark.parametrize("cache_type", ["dynamic", "static"])
def test_cache_in_pieces_is_one_forward(shape, cache_type):
    model, ids = build(shape), token_ids(2, 14)
    static = cache_type == "static"
    cache = StaticCache(model.config, max_cache_len=20) if static else DynamicCache(config=model.config)
    pieces = [model(piece, past_key_values=cache).logits for piece in ids.split([6, 1, 4, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids).logits, rtol=0, atol=2e-5)


def test_a_cache_is_returned_when_asked_for():
    model, ids = build(MODERN), token_ids(1, 6)
    start = model(ids[:, :4])  # use_cache is the config's default
    assert start.past_key_values.get_seq_length() == 4
    following = model(ids[:, 4:], past_key_values=start.past_key_values).logits
    torch.testing.assert_close(following, model(ids).logits[:, 4:], rtol=0, atol=2e-5)
    assert model(ids, use_cache=False).past_key_values is None


def test_beam_search_scores_are_log_probabilities():
    model, ids = build(MODERN), token_ids(1, 4)
    options = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0}
    found = model.generate(ids, do_sample=False, return_dict_in_generate=True, output_scores=True, **options)
    log_probabilities = model(found.sequences).logits.log_softmax(-1)[:, 3:-1]
    generated = found.sequences[:, 4:]
    steps = log_probabilities.gather(-1, generated.unsqueeze(-1)).squeeze(-1)
    expected = steps.masked_fill(generated == TOKENS["pad_token_id"], 0.0).sum(-1)
    torch.testing.assert_close(found.sequences_scores, expected, rtol=1e-4, atol=1e-4)
    assert len({tuple(sequence) for sequence in found.sequences.tolist()}) == 3


def test_sampling_follows_the_model():
    model, ids = build(MODERN), token_ids(1, 4)
    torch.manual_seed(0)
    drawn = model.generate(ids.expand(4000, -1), do_sample=True, top_k=0, max_new_tokens=1)[:, -1]
    frequencies = torch.bincount(drawn, minlength=SIZES["vocab_size"]) / 4000
    assert (frequencies - model(ids).logits[0, -1].softmax(-1)).abs().max() < 0.03
    greedy = model.generate(ids, do_sample=False, max_new_tokens=6)
    assert model.generate(ids, do_sample=True, top_k=1, max_new_tokens=6).tolist() == greedy.tolist()


@every_family
def test_gradient_checkpointing_changes_nothing(shape):
    model, ids = build(shape).train(), token_ids(2, 12)
    plain = gradients(model, model(ids, labels=ids).loss)
    recomputed = []
    for layer in model.model.layers:
        layer.input_layernorm.register_forward_hook(lambda *_: recomputed.append(1))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_gradients(plain, gradients(model, model(ids, labels=ids).loss))
    assert len(recomputed) == 2 * len(model.model.layers)


def test_dropout_is_found_by_what_turns_it_off():
    dropouts = {"attention_dropout": 0.5, "hidden_dropout": 0.5, "embedding_dropout": 0.5}
    model, ids = build(MODERN, **dropouts).train(), token_ids(1, 12)
    assert not torch.equal(model(ids).logits, model(ids).logits)
    for name, expected in [("attention_dropout", 2), ("dropout", 3)]:  # one a layer, and one for the embeddings
        modules = [m for n, m in model.named_modules() if n.endswith("." + name) and isinstance(m, torch.nn.Dropout)]
        assert len(modules) == expected
    for module in model.modules():  # as TRL's disable_dropout does
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(model(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("name", ["attention_dropout", "hidden_dropout", "embedding_dropout"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_dropout_acts_in_training_alone(name, attention):
    model, ids = build(MODERN, attn_implementation=attention, **{name: 0.5}), token_ids(1, 12)
    plain = build(MODERN, attn_implementation=attention)
    torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    assert not torch.allclose(model.train()(ids).logits, plain(ids).logits)


def test_logits_to_keep():
    model, ids = build(MODERN), token_ids(2, 9)
    full = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, full[:, -2:])
    chosen = torch.tensor([1, 5])
    torch.testing.assert_close(model(ids, logits_to_keep=chosen).logits, full[:, chosen])


def test_loss_counts_tokens_as_the_trainer_asks():
    model, ids = build(MODERN), token_ids(2, 9)
    log_probabilities = model(ids).logits[:, :-1].log_softmax(-1)
    total = -log_probabilities.gather(-1, ids[:, 1:, None]).sum()
    torch.testing.assert_close(model(ids, labels=ids).loss, total / 16)
    torch.testing.assert_close(model(ids, labels=ids, num_items_in_batch=torch.tensor(40)).loss, total / 40)


def test_embeddings_in_place_of_ids():
    model, ids = build(CLASSIC), token_ids(2, 9)
    torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, model(ids).logits)
    for arguments in ({}, {"input_ids": ids, "inputs_embeds": torch.zeros(2, 9, 32)}):
        with pytest.raises(ValueError, match="exactly one"):
            model(**arguments)


@both_shapes
def test_hidden_states_are_the_residual_stream(shape):
    model, ids = build(shape, cls=GPTModel), token_ids(1, 7)
    output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    torch.testing.assert_close(model.layers[0](output.hidden_states[0], **layer_inputs(model)), output.hidden_states[1])
    torch.testing.assert_close(output.hidden_states[-1], output.last_hidden_state)


def layer_inputs(model):
    positions = torch.arange(7).unsqueeze(0)
    rotary = model.rotary_emb
    return {"position_embeddings": None if rotary is None else rotary(torch.zeros(1), positions)}


def test_positions_past_the_table_are_refused():
    model = build(CLASSIC)
    with pytest.raises(UserError, match="longer than the table") as caught:
        model(token_ids(1, 65))
    assert (caught.value.got, caught.value.expected) == ("position 64", "positions below max_position_embeddings=64")
    with pytest.raises(UserError, match="longer than the table"):
        model.generate(token_ids(1, 60), max_new_tokens=8, do_sample=False, eos_token_id=None)
    padded = torch.cat((torch.zeros(1, 6, dtype=torch.long), token_ids(1, 60)), dim=1)
    assert model(padded, attention_mask=(padded != 0).long()).logits.isfinite().all()


def test_a_token_that_is_not_in_the_vocabulary_is_named():
    model = build(MODERN)
    with pytest.raises(UserError, match="token id 96") as caught:
        model(torch.tensor([[5, 96]]))
    assert "vocab_size=96" in str(caught.value)
    model(torch.tensor([[5, 95]]))


def test_residual_projections_start_smaller_with_depth():
    torch.manual_seed(0)
    model = GPTForCausalLM(GPTConfig(**{**CLASSIC, "hidden_size": 128, "num_hidden_layers": 8}))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert parameter.eq(1).all(), name
        elif name.endswith("bias"):
            assert parameter.eq(0).all(), name
        else:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            expected = 0.02 / math.sqrt(16) if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


def test_sequence_classification_scores_the_last_token_before_padding():
    for shape in (MODERN, CLASSIC):
        model = build(shape, cls=GPTForSequenceClassification, num_labels=1)
        long, short = token_ids(1, 9), torch.cat((token_ids(1, 4), torch.tensor([[TOKENS["eos_token_id"]]])), dim=1)
        padding = torch.zeros(1, 4, dtype=torch.long)
        right, left = torch.cat((short, padding), dim=1), torch.cat((padding, short), dim=1)
        batch = torch.cat((long, right, left))
        scores = model(batch, attention_mask=(batch != 0).long()).logits
        alone = [model.score(model.model(ids).last_hidden_state[:, -1]) for ids in (long, short, short)]
        torch.testing.assert_close(scores, torch.cat(alone), rtol=0, atol=2e-5)


def test_token_classification_scores_every_token():
    model, ids = build(MODERN, cls=GPTForTokenClassification, num_labels=3), token_ids(2, 6)
    labels = torch.randint(0, 3, (2, 6), generator=torch.Generator().manual_seed(0))
    output = model.train()(ids, labels=labels)  # hidden_dropout is 0, so training drops nothing
    torch.testing.assert_close(output.logits, model.score(model.model(ids).last_hidden_state))
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(output.loss, expected)


def test_pad_as_eos_leaves_eos_trainable():
    model = build({**MODERN, "pad_token_id": 2}).train()
    ids = token_ids(1, 6)
    ids[0, 3] = 2
    assert gradients(model, model(ids, labels=ids).loss)["model.embed_tokens.weight"][2].abs().sum() > 0


def test_learns():
    torch.manual_seed(0)
    for shape in (MODERN, CLASSIC):
        model, ids = GPTForCausalLM(GPTConfig(**shape)), token_ids(4, 16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            loss = model(ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.1


def test_bfloat16_stays_near_float32():
    for shape in (MODERN, CLASSIC):
        model, ids = GPTForCausalLM(GPTConfig(**shape)).eval(), token_ids(2, 20)
        half = copy.deepcopy(model).bfloat16()(ids).logits
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), model(ids).logits, rtol=0, atol=0.02)
