"""The schedule of a rollout's micro-batches, and the batches of an experience."""

import torch

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.experience import Experience, Targets
from alignment.trainers.ppo.rollout import Rollout
from alignment.trainers.ppo.schedule import RolloutSchedule

LENGTHS = torch.tensor([3, 1, 4, 2, 4, 1, 2, 3])


def arguments(**keys) -> PPOConfig:
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 4}
    return PPOConfig("unused", use_cpu=True, **{**sizes, "num_iterations": 2, **keys})


def experience(sampled: bool = False, with_reference: bool = False) -> Experience:
    """Eight rows with a prompt token and LENGTHS completion tokens; the value of a token is its column."""
    mask = torch.arange(4) >= 4 - LENGTHS[:, None]
    attention = torch.nn.functional.pad(mask, (1, 0))
    attention[torch.arange(8), 4 - LENGTHS] = True
    columns = torch.arange(4.0).expand(8, 4)
    rollout = Rollout(attention.long(), attention, mask, LENGTHS > 0, columns + 4 if sampled else None)
    targets = Targets(mask, columns, columns + 1, columns + 2)
    return Experience(rollout, targets, columns + 3, columns + 5 if with_reference else None)


def test_every_pass_trains_on_all_rows_in_a_new_order():
    schedule, given = RolloutSchedule(arguments(), maths.identity), experience()
    passes = []
    for first_step in (0, 2):
        batches = [schedule.next_micro_batch(given, first_step + index // 2) for index in range(4)]
        rows = [rows.tolist() for rows, _ in batches]
        for first in (0, 2):  # both micro-batches of an optimizer step are divided by the step's tokens
            expected = LENGTHS[rows[first] + rows[first + 1]].sum()
            assert [count for _, count in batches[first : first + 2]] == [expected, expected]
        passes.append([row for micro_batch in rows for row in micro_batch])
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(8)) and passes[0] != passes[1]


def test_token_counts_cover_all_processes_and_are_at_least_1():
    schedule = RolloutSchedule(arguments(), lambda values: 3 * values)
    rows, count = schedule.next_micro_batch(experience(), 0)
    others, same = schedule.next_micro_batch(experience(), 0)
    assert count == same == 3 * LENGTHS[torch.cat([rows, others])].sum()
    given = experience()
    given.targets.loss_mask.zero_()
    assert RolloutSchedule(arguments(), maths.identity).next_micro_batch(given, 0)[1] == 1


def test_a_rollout_and_a_step_begin_after_their_last_micro_batch():
    schedule, given, seen = RolloutSchedule(arguments(), maths.identity), experience(), []
    for index in range(10):
        before = (schedule.needs_rollout, schedule.needs_step)
        schedule.next_micro_batch(given, index // 2)
        seen.append((*before, schedule.place_in_step))
    assert [rollout for rollout, _, _ in seen] == [index % 8 == 0 for index in range(10)]
    assert [step for _, step, _ in seen] == [index % 2 == 0 for index in range(10)]
    assert [place for _, _, place in seen] == [0, 1] * 5
    assert not schedule.needs_rollout
    schedule.restart()
    assert schedule.needs_rollout and schedule.needs_step


def learns(kl: list[float], **keys) -> list[bool]:
    """Whether the policy learns in each step of two rollouts of four steps, given the KL of each step."""
    schedule, learned = RolloutSchedule(arguments(**keys), maths.identity), []
    for step, value in enumerate(kl):
        schedule.start_step(step)
        learned.append(schedule.policy_learns)
        schedule.step_kl.add(value, 1.0)
    return learned


def test_the_policy_stops_after_a_step_beyond_target_kl_until_the_next_rollout():
    kl = [0.0, 0.3, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0]
    assert learns(kl, target_kl=0.2) == [True, True, False, False, True, False, False, False]
    assert learns([0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0], target_kl=0.2) == [True] * 8
    assert learns(kl) == learns(kl, target_kl=0.3) == [True] * 8


def test_the_policy_waits_for_the_critics_warmup():
    assert learns([0.0] * 8, critic_warmup_steps=3) == [False] * 3 + [True] * 5


def test_a_batch_of_an_experience_has_the_last_columns_of_its_rows():
    rows = torch.tensor([3, 1])
    batch = experience().batch(rows)
    assert set(batch) == {
        *("input_ids", "attention_mask", "completion_ids", "completion_mask"),
        *("loss_mask", "old_values", "advantages", "returns", "old_log_probs"),
    }
    assert batch["input_ids"].shape == (2, 3) and batch["completion_mask"].tolist() == [[True, True], [False, True]]
    starts = {"old_values": 2.0, "advantages": 3.0, "returns": 4.0, "old_log_probs": 5.0}
    assert {name: batch[name][0, 0].item() for name in starts} == starts
    whole = experience(sampled=True, with_reference=True).batch(rows)
    assert whole["sampler_log_probs"][0].tolist() == [6.0, 7.0] and whole["ref_log_probs"][0].tolist() == [7.0, 8.0]
