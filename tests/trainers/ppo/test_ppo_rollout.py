"""Prompts in, completions out: order, masks, padding, and what reward functions and models see."""

import asyncio
import math
from types import SimpleNamespace

import ppo_tiny as tiny
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from peft.tuners.trainable_tokens import TrainableTokensLayer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import TokenizersBackend

from alignment.errors import UserError
from alignment.models.adapters import token_rows_in_place
from alignment.trainers.ppo import maths
from alignment.trainers.ppo.models import completion_logits
from alignment.trainers.ppo.rewards import (
    FunctionReward,
    ModelReward,
    combine,
    make_rewards,
    read_completions,
    score_samples,
)
from alignment.trainers.ppo.rollout import Rollout, RolloutSampler, encode_prompts, sample, sample_continuously
from alignment.trainers.ppo.scorers import ModelScorer

PROMPTS = [[5], [6, 7, 8], [9, 10, 11, 12]]


def rollout(model=None, *, eos=(tiny.EOS, tiny.TURN), pad=tiny.PAD, prompts=PROMPTS, length=8, seed=0) -> Rollout:
    torch.manual_seed(seed)
    model = tiny.model().eval() if model is None else model
    return sample(
        model, prompts, max_completion_length=length, temperature=1.0, eos_token_ids=list(eos), pad_token_id=pad
    )


def unpadded(result: Rollout, row: int) -> dict[str, torch.Tensor]:
    """A rollout of a single row, without any padding."""
    mask, completion = result.attention_mask[row], result.completion_mask[row]
    ids = result.input_ids[row, mask][None]
    length = int(completion.sum())
    ones = torch.ones(1, length).bool()
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids).bool(),
        "completion_mask": ones,
        "completion_ids": ids[:, -length:],
    }


def test_prompts_repeat_once_per_micro_batch_in_an_order_by_seed_and_epoch():
    sampler = RolloutSampler(num_rows=5, rollout_size=2, repeats=3, seed=0)
    order = list(sampler)
    assert len(order) == len(sampler) == 3 * 2 * 3
    rollouts = [order[start : start + 2] for start in range(0, len(order), 2)]
    for start in range(0, 9, 3):
        assert rollouts[start] == rollouts[start + 1] == rollouts[start + 2]
    assert set(order) == set(range(5))
    assert order == list(RolloutSampler(5, 2, 3, seed=0)) != list(RolloutSampler(5, 2, 3, seed=1))
    sampler.set_epoch(1)
    assert list(sampler) != order


@pytest.mark.parametrize("pad", [tiny.PAD, tiny.EOS])
def test_completions_end_with_the_first_eos_token(pad):
    # many prompts, so that some rows end by each token; a prompt that holds EOS does not end anything
    prompts = [[tiny.EOS, 5 + index % 20] for index in range(48)]
    result = rollout(prompts=prompts, pad=pad, length=12)
    assert 0 < result.terminated.sum() < 48
    ends = set()
    for ids, terminated in zip(result.completion_ids, result.terminated, strict=True):
        body, last = ids[:-1], ids[-1]
        assert not {tiny.EOS, tiny.TURN} & set(body)
        assert (last in (tiny.EOS, tiny.TURN)) == bool(terminated)
        assert terminated or len(ids) == 12
        ends.add(last)
    assert {tiny.EOS, tiny.TURN} <= ends
    for row, prompt in enumerate(prompts):
        ids = result.input_ids[row, result.attention_mask[row]].tolist()
        assert ids == prompt + result.completion_ids[row]


def test_rows_end_in_the_last_column_so_a_batch_trims_only_padding():
    result = rollout()
    assert result.attention_mask[:, -1].all() and result.completion_mask[:, -1].all()
    rows = torch.tensor([0, 1])
    batch = result.batch(rows)
    assert batch["input_ids"].shape[1] == result.lengths[rows].max()
    assert batch["input_ids"][batch["attention_mask"]].tolist() == [
        token for row in rows for token in result.input_ids[row, result.attention_mask[row]].tolist()
    ]


def test_a_single_row_of_samples_equals_that_row_of_the_rollout():
    result = rollout()
    extra = {"log_metric": print, "note": "one for all"}
    rows = [{"prompt": f"w{index}", "target": index} for index in range(3)]
    samples = read_completions(result, rows, tiny.tokenizer(), extra)
    for index in range(3):
        alone = samples.row(index)
        assert alone.rollout.token_ids == [result.token_ids[index]]
        assert alone.rollout.completion_ids == [result.completion_ids[index]]
        assert alone.rollout.terminated.tolist() == [result.terminated[index].item()]
        assert (alone.rows, alone.completions) == ([rows[index]], [samples.completions[index]])
        assert alone.columns["target"] == [index] and alone.columns["note"] == "one for all"
        alone.columns["log_extra"]("note", ["of no row"])
        assert alone.extras == samples.extras == {}


def test_micro_batches_of_a_step_have_rows_of_similar_length():
    lengths = torch.tensor([5, 2, 9, 3, 7, 1, 8, 4])
    mask = torch.arange(9) >= 9 - lengths[:, None]
    rollout = Rollout(torch.zeros(8, 9, dtype=torch.long), mask, mask, torch.ones(8, dtype=torch.bool))
    order = torch.tensor([7, 2, 1, 4, 0, 3, 6, 5])

    def batches(accumulation):
        return [lengths[rows].tolist() for rows in rollout.micro_batches(order, 2, accumulation)]

    assert batches(1) == [[4, 9], [2, 7], [5, 3], [8, 1]]
    assert batches(2) == [[9, 7], [4, 2], [8, 5], [3, 1]]
    assert batches(4) == [[9, 8], [7, 5], [4, 3], [2, 1]]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_changes_no_log_probability_value_or_score(kind):
    policy, scorer = tiny.model(kind).eval(), tiny.model(kind, "score").eval()
    result = rollout(policy)
    batch = result.batch(torch.arange(len(PROMPTS)))
    with torch.no_grad():
        log_probs = maths.token_log_probs(completion_logits(policy, batch, 0.7), batch["completion_ids"])
        outputs = ModelScorer(scorer).outputs(batch)
        for row in range(len(PROMPTS)):
            alone = unpadded(result, row)
            length = alone["completion_mask"].shape[1]
            expected = (policy(alone["input_ids"]).logits[0, :-1] / 0.7).log_softmax(-1)
            expected = expected.gather(1, alone["input_ids"][0, 1:, None])[-length:, 0]
            torch.testing.assert_close(log_probs[row, -length:], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                outputs[row, -length - 1 :], ModelScorer(scorer).outputs(alone)[0], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("pad", [tiny.PAD, tiny.EOS])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_is_continued_in_a_batch_as_alone(kind, pad):
    policy = tiny.model(kind).eval()
    options = {"max_completion_length": 7, "temperature": 1e-3, "eos_token_ids": [tiny.EOS]}
    prompts = [*PROMPTS, [tiny.PAD, 13]]  # one that holds the padding token
    together = sample(policy, prompts, pad_token_id=pad, log_probs=True, **options)
    for row, prompt in enumerate(prompts):
        alone = sample(policy, [prompt], pad_token_id=pad, log_probs=True, **options)
        assert together.completion_ids[row] == alone.completion_ids[0]
        length, own = len(alone.completion_ids[0]), unpadded(together, row)
        with torch.no_grad():
            expected = maths.token_log_probs(completion_logits(policy, own, 1e-3), own["completion_ids"])[0]
        recorded = together.sampler_log_probs[row]
        torch.testing.assert_close(recorded[-length:], expected, atol=0.05, rtol=0.05)
        assert not recorded[:-length].any()


def test_samples_ignore_the_checkpoints_generation_settings():
    model = tiny.model().eval()
    plain = rollout(model)
    model.generation_config.top_k, model.generation_config.repetition_penalty = 1, 5.0
    assert rollout(model).completion_ids == plain.completion_ids
    assert model.generation_config.top_k == 1


def test_reward_model_scores_the_sampled_ids_as_the_classifier_itself_does(tmp_path):
    scorer = tiny.model(head="score", seed=1).eval()
    result = rollout(prompts=[[5 + index] for index in range(12)])
    assert result.terminated.any()
    seen = []
    hook = scorer.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((kwargs["input_ids"], kwargs["attention_mask"])), with_kwargs=True
    )
    rows = [{"prompt": "w1"}] * 12
    config = tiny.config(tmp_path, per_device_eval_batch_size=5)
    [reward] = make_rewards(scorer, None, tiny.model(), tiny.tokenizer(), config, ["w1", "w2"])
    scores = reward(read_completions(result, rows, tiny.tokenizer(), {}))
    hook.remove()
    shown = [ids[mask].tolist() for batch in seen for ids, mask in zip(*batch, strict=True)]
    assert [len(ids) for ids in shown] == sorted(map(len, shown), reverse=True)  # like with like: the least padding
    ends = (tiny.EOS, tiny.TURN)
    replies = [ids[:-1] if ids[-1] in ends else ids for ids in result.completion_ids]
    expected = [[5 + index, *ids, tiny.EOS] for index, ids in enumerate(replies)]
    assert sorted(shown) == sorted(expected)
    with torch.no_grad():
        alone = torch.stack([scorer(torch.tensor([ids])).logits[0, 0] for ids in expected])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-5)


def test_continuous_batching_samples_the_same_distribution():
    model = tiny.model().eval()
    model.lm_head.weight.data *= 20  # far from uniform
    options = {"max_completion_length": 6, "temperature": 0.7, "eos_token_ids": [tiny.EOS, tiny.TURN]}
    prompts = [*PROMPTS, [5], [5]]  # equal ones too
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(sample_continuously(model, prompts, pad_token_id=tiny.PAD, **options))
    result, again, other = results
    assert result.completion_ids == again.completion_ids != other.completion_ids
    assert model.config._attn_implementation == tiny.model().config._attn_implementation
    for row, prompt in enumerate(prompts):
        batch = unpadded(result, row)
        assert batch["input_ids"][0, : len(prompt)].tolist() == prompt
        with torch.no_grad():
            logits = completion_logits(model, batch, 0.7)
        expected = maths.token_log_probs(logits, batch["completion_ids"])[0]
        recorded = result.sampler_log_probs[row, -len(expected) :]
        torch.testing.assert_close(recorded, expected, atol=1e-4, rtol=1e-4)
        ended = result.completion_ids[row][-1] in (tiny.EOS, tiny.TURN)
        assert bool(result.terminated[row]) == ended and (ended or len(expected) == 6)


@pytest.mark.parametrize("errors", [[None, None], [None, "no memory", None]], ids=["too few", "an error"])
def test_continuous_batching_that_fails_raises(errors, monkeypatch):
    model = tiny.model().eval()
    own = model.config._attn_implementation

    def generate_batch(prompts, config, engine, **options):
        tokens = [len(prompt) + config.max_new_tokens for prompt in prompts]
        assert sum(tokens) <= engine.num_blocks * engine.page_size <= sum(tokens) + 2 * engine.page_size * len(tokens)
        assert engine.max_batch_tokens >= max(map(len, prompts)) and engine.return_logprobs
        model.set_attn_implementation("eager")  # as an engine that does not put it back
        return {
            place: SimpleNamespace(generated_tokens=[5], logprobs=[0.0], error=error)
            for place, error in enumerate(errors)
        }

    monkeypatch.setattr(model, "generate_batch", generate_batch)
    options = {"max_completion_length": 4, "temperature": 1.0, "eos_token_ids": [tiny.EOS], "pad_token_id": tiny.PAD}
    with pytest.raises(RuntimeError, match="continuous batching failed"):
        sample_continuously(model, PROMPTS, **options)
    assert model.config._attn_implementation == own != "eager"
    errors = [None, None, None]
    assert sample_continuously(model, PROMPTS, **options).completion_ids == [[5]] * 3


def test_a_reward_model_is_frozen_and_deterministic(tmp_path):
    scorer = tiny.model("gpt2", "score", resid_pdrop=0.5).train()
    where = SimpleNamespace(device="cpu", per_device_eval_batch_size=2)
    [reward] = make_rewards(scorer, None, tiny.model(), tiny.tokenizer(), where, ["w1"])
    samples = read_completions(rollout(), [{"prompt": "w1"}] * 3, tiny.tokenizer(), {})
    assert torch.equal(reward(samples), reward(samples)) and not reward(samples).requires_grad
    assert not scorer.training and not any(parameter.requires_grad for parameter in scorer.parameters())
    where.device = "meta"
    make_rewards(scorer, None, tiny.model(), tiny.tokenizer(), where, ["w1"])
    assert {parameter.device.type for parameter in scorer.parameters()} == {"meta"}


def test_a_reward_model_without_a_reading_scores_the_sampled_ids_themselves():
    scorer = tiny.model(head="score", seed=1).eval()
    samples = read_completions(rollout(), [{"prompt": "w1"}] * 3, tiny.tokenizer(), {})
    scores = ModelReward(ModelScorer(scorer), "own", 2)(samples)
    with torch.no_grad():
        states = [scorer.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in samples.rollout.token_ids]
        expected = torch.stack([scorer.score(state)[0] for state in states])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conversational", [False, True])
def test_reward_models_read_the_ids_that_reward_trainer_trained_them_on(conversational, tmp_path):
    from trl import RewardConfig, RewardTrainer

    def turn(role, text):
        return [{"role": role, "content": text}] if conversational else text

    pair = {
        "prompt": turn("user", "w1 w2"),
        "chosen": turn("assistant", " w3 w4"),
        "rejected": turn("assistant", " w5"),
    }
    args = RewardConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} <turn> {% endfor %}"
    options = {"processing_class": tokenizer, "train_dataset": Dataset.from_list([pair])}
    trained_on = RewardTrainer(tiny.model(head="score"), args=args, **options).train_dataset[0]["chosen_ids"]
    [prompt] = encode_prompts([pair], tokenizer)
    reply = tokenizer("w3 w4")["input_ids"]
    # The template ends replies with its turn's token; plain text gets the end-of-sequence token.
    assert [*prompt, *reply, tiny.TURN if conversational else tiny.EOS] == trained_on


def test_reward_functions_get_trls_arguments_and_columns():
    seen = {}

    def function(prompts, completions, completion_ids, target, **kwargs):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, target=target, rest=set(kwargs))
        return [1.0, None, 3.0]

    result = rollout()
    message = [{"role": "user", "content": "w1"}]
    rows = [{"prompt": message, "target": index} for index in range(3)]
    samples = read_completions(result, rows, tiny.tokenizer(), {"trainer_state": "state"})
    rewards = score_samples([FunctionReward(function)], samples).rewards["function"]
    assert seen["prompts"] == [message] * 3 and seen["target"] == [0, 1, 2]
    assert seen["ids"] == result.completion_ids and seen["rest"] == {"trainer_state", "log_extra"}
    assert seen["completions"][0][0]["role"] == "assistant"
    assert rewards[0] == 1 and rewards[1].isnan()
    both = combine([rewards, torch.tensor([10.0, float("nan"), float("nan")])], [1.0, 0.5])
    assert both[0] == 6 and both[1].isnan() and both[2] == 3
    watched = combine([rewards, torch.tensor([5.0, 5.0, 5.0])], [1.0, 0.0])
    assert watched[0] == 1 and watched[1].isnan()  # a reward of weight 0 does not count
    for wrong, says in [([1.0], "wrong number"), ([1.0, math.nan, 2.0], "not finite"), ([math.inf] * 3, "not finite")]:
        with pytest.raises(UserError, match=says):
            score_samples([FunctionReward(lambda wrong=wrong, **kwargs: wrong)], samples)


def test_async_functions_wait_together():
    started = []

    def waiting(name, value):
        async def function(completions, **kwargs):
            started.append(name)
            while len(started) < 2:  # each waits until the other has begun
                await asyncio.sleep(0)
            return [value] * len(completions)

        function.__name__ = name
        return FunctionReward(function)

    class Judge:
        async def __call__(self, completions, **kwargs):
            return [3.0] * len(completions)

    samples = read_completions(rollout(), [{"prompt": "w1"}] * 3, tiny.tokenizer(), {})
    assert score_samples([FunctionReward(Judge())], samples).rewards["Judge"].tolist() == [3.0] * 3
    plain = FunctionReward(tiny.length_reward)
    scores = score_samples([waiting("one", 1.0), plain, waiting("two", 2.0)], samples).rewards
    assert list(scores) == ["one", "length_reward", "two"]
    assert scores["one"].tolist() == [1.0] * 3 and scores["two"].tolist() == [2.0] * 3


@pytest.mark.parametrize("conversational", [False, True])
def test_a_reward_model_with_another_tokenizer_reads_text(conversational, tmp_path):
    words = list(reversed(["<pad>", "<eos>", "<turn>", "<unk>", *tiny.WORDS]))
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    other = TokenizersBackend(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    other.chat_template = tiny.TEMPLATE
    scorer = tiny.model(head="score", seed=1).eval()
    scorer.config.pad_token_id = None  # the tokenizer's is taken
    config = tiny.config(tmp_path, per_device_eval_batch_size=2)
    scorer.save_pretrained(tmp_path / "judge")
    other.save_pretrained(tmp_path / "judge")
    result = rollout(prompts=[[5 + index] for index in range(6)])
    texts = [f"w{1 + index}" for index in range(6)]
    prompts = [[{"role": "user", "content": text}] if conversational else text for text in texts]
    [reward] = make_rewards(scorer, other, tiny.model(), tiny.tokenizer(), config, prompts)
    # which finds its own tokenizer
    [by_path] = make_rewards(str(tmp_path / "judge"), None, tiny.model(), tiny.tokenizer(), config, prompts)
    rows = [{"prompt": prompt} for prompt in prompts]
    samples = read_completions(result, rows, tiny.tokenizer(), {})
    replies = tiny.tokenizer().batch_decode(result.completion_ids, skip_special_tokens=True)
    assert 0 < result.terminated.sum() < 6
    torch.testing.assert_close(by_path(samples), reward(samples))
    for score, text, reply in zip(reward(samples), texts, replies, strict=True):
        if conversational:
            ids = other(f"{text} <turn> w0 {reply} <turn> ")["input_ids"]
        else:
            ids = other(text + reply)["input_ids"] + [words.index("<eos>")]
        torch.testing.assert_close(score, scorer(torch.tensor([ids])).logits[0, 0], atol=1e-5, rtol=1e-5)


def test_prompts_are_text_or_conversations_through_the_template():
    tokenizer = tiny.tokenizer()
    assert encode_prompts([{"prompt": "w1 w2"}], tokenizer) == [[5, 6]]
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "w1 w2"}]}]).to_list()
    assert encode_prompts(rows, tokenizer) == [[5, 6, tiny.TURN, 4]]


@pytest.mark.parametrize("tied", [True, False])
def test_trained_token_rows_are_in_the_embeddings_during_sampling(tied):
    rows = [tiny.TURN, 5, 6, 7]
    tokens = rows if tied else {"embed_tokens": rows, "lm_head": rows}
    policy = get_peft_model(tiny.model(tie_word_embeddings=tied), tiny.lora(trainable_token_indices=tokens)).eval()
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.5)
    before = {name: one.clone() for name, one in policy.state_dict().items()}
    inner = policy.get_base_model()
    expected = rollout(inner).input_ids
    with token_rows_in_place(inner):
        layers = [module for module in inner.modules() if isinstance(module, TrainableTokensLayer)]
        for layer in layers:
            assert torch.equal(layer.base_layer.weight[rows], layer.trainable_tokens_delta["default"])
        assert len(layers) == 2 and torch.equal(rollout(inner).input_ids, expected)
    assert all(torch.equal(one, before[name]) for name, one in policy.state_dict().items())
    assert torch.equal(rollout(inner).input_ids, expected)
