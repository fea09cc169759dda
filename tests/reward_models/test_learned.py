"""Learned rewards and their ensembles, against the models themselves, and in trainers."""

import json

import numpy as np
import ppo_tiny as tiny
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

from alignment.errors import UserError
from alignment.models.loading import load_trainable
from reward_models.ensembles import Ensemble, aggregated, ensemble, uncertainty
from reward_models.functions import load_function
from reward_models.learned import load_members, reward
from reward_models.protocol import compare_by_score

PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w2 w2"]
REPLIES = [" w7 w8", " w9 w1 w2 w3 w4 w5", " w3", " w11 w12 w13"]


def talks(texts: list[str], role: str) -> list[list[dict]]:
    return [[{"role": role, "content": text.strip()}] for text in texts]


def by_hand(model, texts: list[str]) -> list[float]:
    """The model's score of each text alone, without padding."""
    tokenizer = tiny.tokenizer()
    with torch.no_grad():
        return [model.eval()(torch.tensor([tokenizer(text)["input_ids"]])).logits.item() for text in texts]


def test_text_gets_its_end_token_and_conversations_the_template(whole):
    learned = reward(whole[0], batch_size=3)
    model = AutoModelForSequenceClassification.from_pretrained(whole[0])
    expected = by_hand(model, [p + r + "<eos>" for p, r in zip(PROMPTS, REPLIES, strict=True)])
    assert learned(prompts=PROMPTS, completions=REPLIES) == pytest.approx(expected, abs=1e-5)
    assert np.std(expected) > 0.01
    ended = [text + "<eos>" for text in REPLIES]
    assert learned(prompts=PROMPTS, completions=ended) == learned(prompts=PROMPTS, completions=REPLIES)
    written = [f"{p.strip()} <turn> w0 {r.strip()} <turn>" for p, r in zip(PROMPTS, REPLIES, strict=True)]
    conversations = {"prompts": talks(PROMPTS, "user"), "completions": talks(REPLIES, "assistant")}
    assert learned(**conversations) == pytest.approx(by_hand(model, written), abs=1e-5)
    assert learned.__name__ == "judge3" and learned(prompts=[], completions=[]) == []


def test_the_tokens_are_those_of_trls_reward_trainer(whole, tmp_path):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from alignment.tokenization.reward_rows import reward_rows

    for rows in (
        {"prompt": PROMPTS, "chosen": REPLIES, "rejected": REPLIES[::-1]},
        {
            "prompt": talks(PROMPTS, "user"),
            "chosen": talks(REPLIES, "assistant"),
            "rejected": talks(REPLIES[::-1], "assistant"),
        },
    ):
        args = RewardConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=None)
        trainer = RewardTrainer(
            whole[0], args, train_dataset=Dataset.from_dict(rows), processing_class=tiny.tokenizer()
        )
        for side in ("chosen", "rejected"):
            ours = reward_rows(tiny.tokenizer(), rows["prompt"], rows[side])
            assert ours == list(trainer.train_dataset[f"{side}_ids"])


def test_rows_longer_than_the_context_have_no_score_and_are_counted(whole, caplog):
    learned = reward(whole[2])
    short, none = learned(prompts=["w1", "w1"], completions=[" w2", " w2" * 70])
    assert none is None and short is not None
    assert "1 of 2 completions not scored" in caplog.text


def test_models_without_a_score_head_are_refused_all_at_once(whole, tmp_path):
    tiny.model().save_pretrained(tmp_path / "policy")
    tiny.sft_adapter().save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError) as caught:
        load_members([whole[0], str(tmp_path / "policy"), str(tmp_path / "adapter")])
    assert str(caught.value).count("its score head would be random") == 2


def test_an_ensemble_combines_its_members_scores(whole):
    scores = np.array([reward(path)(prompts=PROMPTS, completions=REPLIES) for path in whole])
    for aggregate, expected in {
        "mean": scores.mean(0),
        "min": scores.min(0),
        "mean-std": scores.mean(0) - 2 * scores.std(0),
    }.items():
        made = ensemble(whole, aggregate, k=2.0)
        assert made(prompts=PROMPTS, completions=REPLIES) == expected.tolist()
        assert np.array_equal(made.scores(PROMPTS, REPLIES), scores)


def test_adapters_share_their_base_and_score_like_separate_models_to_the_bit(adapters):
    members = load_members(adapters)
    assert len({id(member.model) for member in members}) == 1 and isinstance(members[0].model, PeftModel)
    base = sum(p.numel() for p in load_trainable(adapters[0], "sequence-classification").get_base_model().parameters())
    held = sum(p.numel() for p in members[0].model.parameters())
    assert held < 2 * base
    apart = [reward(path)(prompts=PROMPTS, completions=REPLIES) for path in adapters]
    together = Ensemble(members).scores(PROMPTS, REPLIES)
    assert np.array_equal(together, np.array(apart))
    assert np.array_equal(Ensemble(members[::-1]).scores(PROMPTS, REPLIES), np.array(apart)[::-1])
    plain = AutoPeftModelForSequenceClassification.from_pretrained(adapters[2], num_labels=1)
    expected = by_hand(plain, [p + r + "<eos>" for p, r in zip(PROMPTS, REPLIES, strict=True)])
    assert together[2] == pytest.approx(expected, abs=1e-5)
    assert len({round(one, 4) for row in apart for one in row}) == 12


def test_aggregates_by_hand():
    scores = np.array([[1.0, 0.0], [3.0, 0.0]])
    assert uncertainty(scores).tolist() == [1.0, 0.0]
    assert aggregated(scores, "mean").tolist() == [2.0, 0.0]
    assert aggregated(scores, "min").tolist() == [1.0, 0.0]
    assert aggregated(scores, "mean-std", k=0.5).tolist() == [1.5, 0.0]


def constant(*values):
    def says(completions, **columns):
        return list(values)

    return says


def test_offsets_are_subtracted_and_a_missing_score_gives_none():
    made = Ensemble([constant(10.0, 11.0), constant(-1.0, None)], "min", offsets=[10.0, 0.0])
    assert made(prompts=["", ""], completions=["", ""]) == [-1.0, None]


def test_the_uncertainty_of_each_completion_is_logged():
    metrics, extras = {}, {}
    made = Ensemble([constant(0.0, 1.0), constant(2.0, 1.0)])
    made(prompts=["", ""], completions=["", ""], log_metric=metrics.__setitem__, log_extra=extras.__setitem__)
    assert metrics == {"ensemble/std": 0.5} and extras == {"ensemble_std": [1.0, 0.0]}


def test_a_reference_sets_the_members_means_to_zero(whole, tmp_path):
    rows = [{"prompt": p, "chosen": r, "rejected": s} for p, r, s in zip(PROMPTS, REPLIES, REPLIES[::-1], strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = ensemble(whole, "min", reference=str(tmp_path / "pairs.jsonl"))
    asked = talks(PROMPTS, "user") * 2, talks([r.strip() for r in REPLIES + REPLIES[::-1]], "assistant")
    assert made.scores(*asked).mean(1) == pytest.approx([0, 0, 0], abs=1e-6)
    assert np.abs(made.offsets).min() > 1e-3


def test_invalid_ensembles_are_refused(whole):
    with pytest.raises(UserError, match="Unknown aggregate"):
        ensemble(["nowhere", "nowhere"], "median")
    with pytest.raises(UserError, match="an ensemble of one"):
        ensemble(whole[:1])
    with pytest.raises(UserError, match="no checkpoint at"):
        ensemble([whole[0], "./nowhere"])


def test_compare_by_score():
    says = constant(1.0, 0.0, 0.5, None)
    other = iter([[1.0, 0.0, 0.5, None], [0.0, 1.0, 0.4, 1.0]])
    assert compare_by_score(lambda **_: next(other), *[["", "", "", ""]] * 3, margin=0.2) == [1.0, 0.0, 0.5, None]
    assert compare_by_score(says, *[["", "", "", ""]] * 3) == [0.5, 0.5, 0.5, None]


@pytest.fixture
def specs(adapters) -> list[str]:
    return [
        f"reward_models.ensembles:ensemble?members={','.join(adapters)}&aggregate=mean-std&k=0.5",
        "reward_models.rules:length_band?low=2&high=3&fall=4",
    ]


def test_ppo_takes_an_ensemble_and_a_rule_by_their_names(specs, tmp_path):
    rewards = [load_function(spec) for spec in specs]
    arguments = {"max_steps": 1, "log_completions": True, "reward_weights": [1.0, 0.5]}
    run = tiny.trainer(tmp_path, reward_funcs=rewards, arguments=arguments)
    run.train()
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    given = {"prompts": [row["prompt"] for row in rows], "completions": [row["completion"] for row in rows]}
    expected = [one(**given) for one in rewards]
    logged = run.state.log_history[0]
    assert logged["rewards/ensemble/mean"] == pytest.approx(np.mean(expected[0]), abs=1e-5)
    assert logged["rewards/length_band/mean"] == pytest.approx(np.mean(expected[1]), abs=1e-5)
    assert logged["reward"] == pytest.approx(np.mean(expected[0]) + 0.5 * np.mean(expected[1]), abs=1e-5)
    deviations = uncertainty(rewards[0].scores(**given))
    assert [row["ensemble_std"] for row in rows] == pytest.approx(deviations.tolist(), abs=1e-5)
    assert logged["ensemble/std"] == pytest.approx(deviations.mean(), abs=1e-5) and deviations.min() > 0


def test_trls_grpo_takes_them_too(specs, tmp_path):
    args = GRPOConfig(
        str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        max_steps=1,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    rewards = [load_function(spec) for spec in specs]
    trainer = GRPOTrainer(tiny.model(), rewards, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer())
    trainer.train()
    logged = trainer.state.log_history[0]
    assert np.isfinite(logged["rewards/ensemble/mean"]) and 0 <= logged["rewards/length_band/mean"] <= 1
    assert logged["ensemble/std"] > 0
