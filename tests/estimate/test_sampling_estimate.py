"""The estimate of generation: replies to prompts, and short answers to questions."""

from dataclasses import replace

import pytest
from transformers import LlamaConfig

from alignment.check.costs import sampling_finding
from alignment.estimate import compute, tensor_bytes
from alignment.estimate.compute import Device
from alignment.estimate.sampling import Questions, describe_sampling, estimate_sampling, memory_parts, saved_precision
from alignment.estimate.shape import shape_of

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, dtype="float32",
)  # fmt: skip
MACHINE = Device("a machine", 24 * 10**9, 1e11)
ASKED = Questions(rows=100, mean_tokens=10, longest_tokens=20, answer_tokens=32, answers=4, batch=32, rows_per_part=64)


@pytest.fixture(scope="module")
def shape():
    return shape_of(CONFIG)


def cost(shape, asked=ASKED, device=MACHINE, **options):
    return estimate_sampling(shape, asked, device, saved_precision(CONFIG), **options)


def test_tokens_are_those_of_all_replies_at_full_length(shape):
    found = cost(shape)
    assert (found.questions.replies, found.generated, found.read) == (400, 400 * 32, 400 * 10)


@pytest.mark.parametrize(
    ("rows", "answers", "batch", "part", "batches"),
    [(100, 4, 32, 64, 8 + 5), (100, 4, 32, None, 13), (10, 1, 32, 4, 3), (10, 1, 32, 64, 1), (3, 5, 4, 2, 3 + 2)],
)
def test_the_last_batch_of_a_part_may_not_be_full(rows, answers, batch, part, batches):
    """As `in_parts` and `generate` make them."""
    asked = Questions(rows, 10, 10, 8, answers, batch, part)
    assert asked.batches == batches


def test_time_is_that_of_reading_and_of_a_step_per_token(shape):
    """By hand: the prompt's pass gives the first token, 31 passes of one token follow."""
    flops = compute.forward_flops(shape, 42) * 400 * (10 + 31 * compute.SAMPLING_SLOWDOWN)
    expected = compute.START + flops / (compute.UTILISATION * 1e11) + 13 * 2 * 32 * compute.LAUNCH
    assert cost(shape).seconds == pytest.approx(expected)
    assert cost(shape, device=replace(MACHINE, flops=None)).seconds is None


def test_answers_of_one_token_cost_what_reading_the_questions_does(shape):
    question = replace(ASKED, answer_tokens=1, answers=1, mean_tokens=200, longest_tokens=300)
    found = cost(shape, question)
    flops = compute.forward_flops(shape, 201) * 100 * 200
    passes = 2 + 2  # batches of both parts
    expected = compute.START + flops / (compute.UTILISATION * 1e11) + passes * 2 * compute.LAUNCH
    assert found.seconds == pytest.approx(expected)
    assert found.generated == 100
    assert cost(shape, replace(question, answers=2)).seconds > found.seconds  # both positions of a pair


def test_a_reward_reads_each_reply_once(shape):
    reward = shape_of(CONFIG, kind="sequence-classification")
    more = cost(shape, reward=reward).seconds - cost(shape).seconds
    flops = compute.forward_flops(reward, 42) * 400 * 42
    assert more == pytest.approx(flops / (compute.UTILISATION * 1e11) + 13 * 2 * compute.LAUNCH)
    assert "reward model" in cost(shape, reward=reward).memory


def test_memory_is_weights_cache_pass_and_logits(shape):
    precision = saved_precision(CONFIG)
    parts = memory_parts(shape, ASKED, precision, MACHINE)
    assert parts["weights"] == 4 * shape.parameters
    assert parts["KV cache"] == 32 * 52 * 2 * (2 * 8) * 2 * 4  # sequences, positions, layers, width, keys and values
    assert parts["prompts' pass"] == tensor_bytes.forward_bytes(shape, precision, 32, 20)
    assert parts["framework"] == tensor_bytes.CPU_FRAMEWORK
    few = memory_parts(shape, replace(ASKED, rows=1, answers=2), precision, MACHINE)
    assert few["KV cache"] * 16 == parts["KV cache"]  # a batch holds no more than there is
    assert saved_precision(LlamaConfig(dtype="bfloat16")).weights == 2


def test_two_checkpoints_answer_one_after_the_other(shape):
    one, two = cost(shape), cost(shape, replace(ASKED, models=2))
    assert two.seconds - compute.START == pytest.approx(2 * (one.seconds - compute.START))
    assert (two.generated, two.read) == (2 * one.generated, 2 * one.read)
    weights = {name: size - one.memory[name] for name, size in two.memory.items() if size != one.memory[name]}
    assert weights == {"weights": 4 * shape.parameters}
    assert "800 of at most 32 tokens (100 prompts, 8 each)" in describe_sampling(two)


def test_a_machine_that_is_too_small_is_refused_with_a_batch_that_fits(shape):
    base = sum(memory_parts(shape, ASKED, saved_precision(CONFIG), MACHINE, batch=0).values())
    cache = sum(memory_parts(shape, ASKED, saved_precision(CONFIG), MACHINE, batch=1).values()) - base
    small = cost(shape, device=replace(MACHINE, memory=base + 9 * cache))
    assert (small.verdict, small.largest_batch) == ("does not fit", 8)
    assert sampling_finding(small).severity == "warning" and "batch_size: 8" in sampling_finding(small).fix
    none = cost(shape, device=replace(MACHINE, memory=base // 2))
    assert none.largest_batch == 0
    assert sampling_finding(none).severity == "error" and "a machine with" in sampling_finding(none).fix
    assert sampling_finding(cost(shape)) is None


def test_an_estimate_is_described_as_those_of_training_are(shape):
    lines = describe_sampling(cost(shape)).splitlines()
    labels = ["model", "replies", "tokens", "time", "memory", ""]
    assert [line[2:10].strip() for line in lines] == labels
    assert "400 of at most 32 tokens (100 prompts, 4 each)" in lines[1]
    assert "at most 12.8k generated, about 4,000 read" in lines[2]
    assert "fits, with a batch of up to 1024 or more" in lines[4]
    assert "(100 prompts)" in describe_sampling(cost(shape, replace(ASKED, answers=1)))
