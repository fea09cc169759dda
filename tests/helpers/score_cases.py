"""Scores and judgements of rows in batches of any size and order, against those of each row alone."""

from collections.abc import Sequence

import ragged
import torch
from compared import assert_close
from datasets import Dataset

from alignment.trainers.ppo.rewards import ModelReward, Samples
from alignment.trainers.ppo.rollout import Rollout
from alignment.trainers.ppo.scorers import ModelScorer
from eval.generation.winrate import Output, compare_outputs, keyed
from reward_models.card.best_of_n import best_of_n
from reward_models.card.pairwise import judge_pairs
from reward_models.judges.local import LocalJudge
from reward_models.learned import LearnedReward, score_rows

REPLIES = [reply for _, reply, _ in ragged.TALKS]
PROMPTS = [ragged.ask(prompt) for prompt, _, _ in ragged.TALKS]
PAIR_TEMPLATE = "{prompt} | A {a} | B {b} | better:"


def permuted(order: Sequence[int], *columns: Sequence) -> list[list]:
    return [[column[place] for place in order] for column in columns]


def learned(kind: str, name: str, batch_size: int, seed: int = 3) -> LearnedReward:
    words = ragged.tokenizer(name)
    return LearnedReward(ragged.model(kind, words, "score", seed), words, batch_size=batch_size)


@torch.no_grad()
def alone(model, rows: Sequence[list[int]]) -> list[float]:
    """The classifier's own score of each row of token ids, without a mask."""
    return [model(torch.tensor([row])).logits.item() for row in rows]


def check_learned(kind: str, name: str, batch_size: int, order: Sequence[int]) -> None:
    """A learned reward's score of a conversation is the classifier's of that row alone."""
    reward = learned(kind, name, batch_size)
    texts = [prompt + ragged.say(reply) for prompt, reply in zip(PROMPTS, REPLIES, strict=True)]
    wanted = alone(reward.model, reward.tokenizer.apply_chat_template(texts, return_dict=True)["input_ids"])
    prompts, replies = permuted(order, PROMPTS, [ragged.say(reply) for reply in REPLIES])
    assert_close(reward(prompts, replies), [wanted[place] for place in order], "learned rewards")


def check_score_rows(model, words, rows: Sequence[list[int]], batch_size: int) -> None:
    """Any rows of tokens."""
    assert_close(score_rows(model, words, rows, batch_size), alone(model, rows), "scores of token rows")


def check_model_reward(model, rows: Sequence[list[int]], batch_size: int) -> None:
    """PPO's reward of rows of a rollout, which it reads at their last token."""
    found = ModelReward(ModelScorer(model), "judge", batch_size)(samples_of(rows))
    with torch.no_grad():
        wanted = [model.score(model.base_model(torch.tensor([row])).last_hidden_state[0, -1]).item() for row in rows]
    assert_close(found, wanted, "PPO's rewards")


def samples_of(rows: Sequence[list[int]]) -> Samples:
    """A rollout of rows of token ids, the first of each its prompt."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[column >= width - len(row) for column in range(width)] for row in rows])
    completion = torch.tensor([[column > width - len(row) for column in range(width)] for row in rows])
    longest = max(1, int(completion.sum(1).max()))
    rollout = Rollout(ids, mask, completion[:, -longest:], torch.ones(len(rows)).bool())
    return Samples(rollout, [{"prompt": "x"}] * len(rows), [""] * len(rows), {}, {})


def check_card(kind: str, name: str, batch_size: int, order: Sequence[int]) -> None:
    """A reward card's figures do not hang on the batch size, nor on the order of the pairs."""
    said = [ragged.say(reply) for reply in REPLIES]
    pairs = {"prompt": PROMPTS, "chosen": said, "rejected": said[1:] + said[:1]}
    gold = {"gold_chosen": [0.1 * n for n in range(8)], "gold_rejected": [0.4] * 8}
    rows = Dataset.from_dict(pairs | gold | {"kind": list("aabbccdd")})
    wanted = figures(judge_pairs(learned(kind, name, 1), rows, 0.05, "kind"))
    found = figures(judge_pairs(learned(kind, name, batch_size), rows.select(order), 0.05, "kind"))
    assert found.keys() == wanted.keys()
    assert_close(list(found.values()), list(wanted.values()), "figures of the card", 1e-4)


def figures(card: dict, before: str = "") -> dict[str, float]:
    """The numbers of nested dictionaries and lists, by their places."""
    found = {}
    items = card.items() if isinstance(card, dict) else enumerate(card)
    for key, value in items:
        if isinstance(value, dict | list):
            found |= figures(value, f"{before}{key}/")
        elif isinstance(value, int | float):
            found[f"{before}{key}"] = float(value)
    return found


def judge(kind: str, name: str, batch_size: int) -> LocalJudge:
    words = ragged.tokenizer(name)
    return LocalJudge(
        ragged.model(kind, words, seed=2),
        words,
        template="{prompt} {completion} rating:",
        pair_template=PAIR_TEMPLATE,
        batch_size=batch_size,
    )


def check_judge(kind: str, name: str, batch_size: int, order: Sequence[int]) -> None:
    """A local judge's probability of each answer is that of its question alone."""
    asked = judge(kind, name, batch_size)
    texts = [f"{prompt[0]['content']} {reply}" for prompt, reply in zip(PROMPTS, REPLIES, strict=True)]
    found = asked.answer_probabilities(*permuted(order, texts), ["A", "B"])
    forms = [asked.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in ("A", " A", "B", " B")]
    wanted = []
    for place in order:
        with torch.no_grad():
            logits = asked.model(torch.tensor([asked._encode(texts[place])])).logits[0, -1]
        chances = logits.double().softmax(-1)
        said = [chances[form[0]].item() if len(form) == 1 else 0.0 for form in forms]
        wanted.append([said[0] + said[1], said[2] + said[3]])
    assert_close(found * 100, torch.tensor(wanted) * 100, "chances of answers, in percent")


def check_win_rate(judge_or_reward, alone_judge, order: Sequence[int]) -> None:
    """The outcome of each prompt is that of a judge with batches of one and rows in their order."""

    def outputs(replies, places):
        rows = [Output({"prompt": PROMPTS[place]}, replies[place]) for place in places]
        return keyed(rows)

    sides = [REPLIES, REPLIES[3:] + REPLIES[:3]]
    wanted = compare_outputs(*(outputs(side, range(8)) for side in sides), alone_judge)
    found = compare_outputs(*(outputs(side, order) for side in sides), judge_or_reward)
    outcomes = [{str(item["prompt"]): item["outcome"] for item in one["items"]} for one in (found, wanted)]
    assert outcomes[0] == outcomes[1]
    kept = {key: found[key] for key in ("win_rate", "se", "ci_low", "length_drift", "sides", "length_controlled")}
    numbers, others = figures(kept), figures({key: wanted[key] for key in kept})
    assert_close(list(numbers.values()), list(others.values()), "figures of the win rate", 1e-4)


def check_best_of_n(scores: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> None:
    """The curve over prompts is the mean of the curves of each prompt."""
    wanted = [
        [one[key] for one in best_of_n([proxy], [true])]
        for key in ("proxy", "gold")
        for proxy, true in zip(scores, gold, strict=True)
    ]
    half = len(scores)
    found = best_of_n(scores, gold)
    for key, rows in (("proxy", wanted[:half]), ("gold", wanted[half:])):
        assert_close([one[key] for one in found], torch.tensor(rows).mean(0), f"best of n, {key}")
