"""Log-likelihoods and replies of a model in batches of any size and order, against those of each row alone."""

from collections.abc import Sequence

import ragged
import torch
from compared import assert_close
from lm_eval.api.instance import Instance

from alignment.trainers.ppo import rollout
from alignment.trainers.ppo.maths import token_log_probs
from alignment.trainers.ppo.models import chunked, completion_logits, inner
from eval.generation.generate import Sampling, generate
from eval.harness.lm import CausalLM

CONTINUATIONS = [(prompt, f" {reply or 'x'}") for prompt, reply, _ in ragged.TALKS]
CHOICES = [("Pick one:", letter) for letter in (" apple", " door", " kite stone")]  # share their inputs' beginnings
REQUESTS = [*CONTINUATIONS, *CHOICES, ("", "The zebra.")]
MODELS = (*ragged.MODELS, "lora")


def model_of(kind: str, name: str, attention: str = "sdpa"):
    words = ragged.tokenizer(name)
    model = (
        ragged.adapted(ragged.model("gpt", words), task_type="CAUSAL_LM")
        if kind == "lora"
        else ragged.model(kind, words)
    )
    ids = sorted({words.eos_token_id, words.convert_tokens_to_ids(ragged.END[name])})
    inner(model).generation_config.eos_token_id = ids
    inner(model).set_attn_implementation(attention)
    return model.eval(), words


def instances(pairs: Sequence[tuple], kind: str) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=pair, idx=0, metadata=("t", place, 1))
        for place, pair in enumerate(pairs)
    ]


@torch.no_grad()
def sum_alone(model, ids: Sequence[int], scored: int) -> float:
    """The log-probability of the last `scored` tokens of a row, read in one pass without a mask."""
    logits = model(input_ids=torch.tensor([list(ids)])).logits[0, -scored - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, torch.tensor(ids[-scored:])[:, None]).sum().item()


def check_log_likelihoods(kind: str, name: str, batch_size: int, order: Sequence[int], attention: str = "sdpa") -> None:
    """Sums of continuations, as lm-eval asks for them."""
    model, words = model_of(kind, name, attention)
    lm = CausalLM(model, words, batch_size)
    pairs = [REQUESTS[place] for place in order]
    with torch.no_grad():
        found = lm.loglikelihood(instances(pairs, "loglikelihood"))
    encoded = [lm._encode_pair(*pair) for pair in pairs]
    wanted = [sum_alone(model, [*context, *continuation], len(continuation)) for context, continuation in encoded]
    assert_close([total for total, _ in found], wanted, "log-likelihoods")


def check_rolling(kind: str, name: str, batch_size: int, order: Sequence[int], attention: str = "sdpa") -> None:
    """Whole texts, their first token after the beginning's."""
    model, words = model_of(kind, name, attention)
    lm = CausalLM(model, words, batch_size)
    texts = ["".join(REQUESTS[place]) for place in order]
    with torch.no_grad():
        found = lm.loglikelihood_rolling(instances([(text,) for text in texts], "loglikelihood_rolling"))
    rows = [[lm.prefix_token_id, *words(text, add_special_tokens=False)["input_ids"]] for text in texts]
    assert_close(found, [sum_alone(model, row, len(row) - 1) for row in rows], "log-likelihoods of texts")


@torch.no_grad()
def greedy_alone(model, ids: Sequence[int], limit: int, stops: Sequence[int]) -> list[int]:
    """The likeliest tokens, one whole pass a token, without a cache."""
    row = list(ids)
    for _ in range(limit):
        row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
        if row[-1] in stops:
            break
    return row[len(ids) :]


def prompts_of(words) -> list[list[int]]:
    return [ragged.prompt_ids(words, prompt) for prompt, _, _ in ragged.TALKS]


def check_greedy(kind: str, name: str, batch_size: int, order: Sequence[int], attention: str = "sdpa") -> None:
    """Greedy replies, of eval and of lm-eval, are those that the model gives each prompt alone, without a cache."""
    model, words = model_of(kind, name, attention)
    prompts = [prompts_of(words)[place] for place in order if place < 8]
    replies = generate(model, words, prompts, Sampling(0.0, max_new_tokens=6, batch_size=batch_size))
    stops = inner(model).generation_config.eos_token_id
    wanted = [tuple(greedy_alone(model, prompt, 6, stops)) for prompt in prompts]
    assert [reply.token_ids for (reply,) in replies] == wanted, "greedy replies"
    texts = [REQUESTS[place][0] for place in order if place < 8]
    options = {"until": [" zebra"], "max_gen_toks": 6, "do_sample": False}
    lm = CausalLM(model, words, batch_size)
    found = lm.generate_until(instances([(text, options) for text in texts], "generate_until"))
    one = CausalLM(model, words, 1)
    wanted = [one.generate_until(instances([(text, options)], "generate_until"))[0] for text in texts]
    assert found == wanted, "replies of lm-eval's tasks"


def check_sampled(kind: str, name: str, batch_size: int, order: Sequence[int], attention: str = "sdpa") -> None:
    """A sampled reply hangs on its prompt, its number and the seed, not on its batch."""
    model, words = model_of(kind, name, attention)
    prompts = prompts_of(words)
    sampling = {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 5}
    found = generate(
        model, words, [prompts[p] for p in order if p < 8], Sampling(batch_size=batch_size, **sampling), n=2
    )
    wanted = [generate(model, words, [prompts[p]], Sampling(batch_size=1, **sampling), n=2)[0] for p in order if p < 8]
    assert [[one.token_ids for one in row] for row in found] == [[one.token_ids for one in row] for row in wanted]


def check_rollout(
    kind: str, name: str, batch_size: int, order: Sequence[int], attention: str = "sdpa", monkeypatch=None
) -> None:
    """PPO's sampler and its log-probabilities: what each prompt alone gives, and what eval says of the same tokens."""
    model, words = model_of(kind, name, attention)
    plain = rollout._plain_sampling
    stops = inner(model).generation_config.eos_token_id

    def greedy(*arguments):
        config = plain(*arguments)
        config.do_sample = False
        return config

    monkeypatch.setattr(rollout, "_plain_sampling", greedy)
    prompts = [prompts_of(words)[place] for place in order if place < 8]
    sampled = rollout.sample(
        inner(model),
        prompts,
        max_completion_length=6,
        temperature=1.0,
        eos_token_ids=stops,
        pad_token_id=words.pad_token_id,
    )
    wanted = [greedy_alone(model, prompt, 6, stops) for prompt in prompts]
    assert sampled.completion_ids == wanted, "PPO's completions"
    assert sampled.token_ids == [prompt + reply for prompt, reply in zip(prompts, wanted, strict=True)]

    def log_probs(batch):
        return token_log_probs(completion_logits(model, batch, 1.0), batch["completion_ids"])

    found = (chunked(log_probs, sampled, batch_size) * sampled.completion_mask).sum(1)
    rows = [(None, prompt, reply) for prompt, reply in zip(prompts, wanted, strict=True)]
    with torch.no_grad():
        said = CausalLM(model, words, batch_size)._loglikelihood_tokens(rows)
    assert_close(found, [total for total, _ in said], "log-probabilities of PPO and of eval")


def check_cache(kind: str, name: str) -> None:
    """Logits of a left-padded batch, read token by token from a cache, are those of each row in one pass."""
    model, words = model_of(kind, name)
    rows = [ids[:9] for ids in prompts_of(words)[:4]]
    rows = [row[: 9 - 2 * place] for place, row in enumerate(rows)]
    width = max(map(len, rows))
    ids = torch.tensor([[words.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, seen = None, []
    with torch.no_grad():
        for column in range(width):
            step = slice(column, column + 1)
            output = model(
                input_ids=ids[:, step],
                attention_mask=mask[:, : column + 1],
                position_ids=positions[:, step],
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            seen.append(output.logits)
        together = torch.cat(seen, 1)
        for row, logits in zip(rows, together, strict=True):
            assert_close(logits[-len(row) :], model(input_ids=torch.tensor([row]), use_cache=False).logits[0], "logits")


def check_attention(kind: str, name: str) -> None:
    """Both backends read padded batches alike, padding on either side."""
    rows = [row[:12] for row in prompts_of(ragged.tokenizer(name))[:4]]
    rows = [row[: len(row) - place] for place, row in enumerate(rows)]
    width = max(map(len, rows)) + 2
    alone, words = model_of(kind, name)
    with torch.no_grad():
        wanted = [alone(input_ids=torch.tensor([row])).logits[0] for row in rows]
    for attention in ("sdpa", "eager"):
        for left in (True, False):
            model, _ = model_of(kind, name, attention)
            pads = [[words.pad_token_id] * (width - len(row)) for row in rows]
            pairs = list(zip(rows, pads, strict=True))
            ids = torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in pairs])
            mask = torch.tensor(
                [[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p) for r, p in pairs]
            )
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
            for row, expected, known in zip(logits, wanted, mask.bool(), strict=True):
                assert_close(row[known], expected, f"logits, {attention}, padding on the {'left' if left else 'right'}")
