"""The frontier on synthetic curves of known peak and coefficients, and its points from logs and checkpoints."""

import argparse
import json

import numpy as np
import pytest
import torch

from alignment.cli.evaluate import frontier as cli
from alignment.errors import UserError
from eval.frontier.curves import Point, frontier
from eval.frontier.gold_peak import correlated_noise, peak, smoother
from eval.frontier.points import log_probabilities, logged_points, measured_points, watched_rewards
from eval.frontier.scaling_fits import best_of_n_fits, fit
from eval.generation.generate import Sampling

STEPS = np.arange(4, 204, 4)
HILL = 1.0 - ((STEPS - 100) / 100) ** 2


def test_the_smoother_keeps_lines_and_averages_noise():
    matrix = smoother(STEPS.astype(float), 20.0)
    np.testing.assert_allclose(matrix @ (3 + 0.5 * STEPS), 3 + 0.5 * STEPS)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert (matrix[25] ** 2).sum() < 0.2


def test_the_peak_of_a_hill():
    rng, held = np.random.default_rng(0), 0
    for run in range(60):
        found = peak(STEPS, HILL + rng.normal(0, 0.2, len(STEPS)), seed=run, draws=500)
        held += found["low"] <= 100 <= found["high"]
        assert found["over_optimised"] and abs(found["step"] - 100) <= 40
    assert held >= 53  # of 57 expected
    exact = peak(STEPS, HILL)
    assert exact["step"] == 100 and 96 <= exact["low"] <= exact["high"] <= 104


def test_noise_alone_is_no_over_optimisation():
    rng = np.random.default_rng(1)
    flat = [peak(STEPS, rng.normal(0, 1, len(STEPS)), seed=run, draws=500) for run in range(100)]
    assert sum(found["over_optimised"] for found in flat) <= 6
    rising = [peak(STEPS, STEPS / 100 + rng.normal(0, 0.3, len(STEPS)), seed=run, draws=500) for run in range(50)]
    assert sum(found["over_optimised"] for found in rising) <= 2
    known = peak(STEPS[:5], np.array([0.0, 1.0, 0.9, 0.8, 0.0]), np.full(5, 0.01))
    vague = peak(STEPS[:5], np.array([0.0, 1.0, 0.9, 0.8, 0.0]), np.full(5, 2.0))
    assert known["over_optimised"] and not vague["over_optimised"]
    assert (vague["high"] - vague["low"]) > (known["high"] - known["low"])


def autoregressive(rng, n: int, correlation: float) -> np.ndarray:
    """(n,): noise of variance 1 whose neighbours have this correlation."""
    values = rng.normal(size=n)
    for place in range(1, n):
        values[place] = correlation * values[place - 1] + (1 - correlation**2) ** 0.5 * values[place]
    return values


@pytest.mark.parametrize(("correlation", "spacing"), [(0.5, 4), (0.9, 1)])
def test_autocorrelated_noise_alone_is_no_over_optimisation(correlation, spacing):
    """A flat curve is called over-optimised as often as it may, whatever the reward's unit and the steps' spacing."""
    rng, steps, found = np.random.default_rng(2), np.arange(1, 51) * spacing, []
    for run in range(80):
        gold = 7 + 0.01 * autoregressive(rng, 50, correlation)
        found.append(peak(steps, gold, seed=run, draws=200)["over_optimised"])
    assert sum(found) <= 9  # 4 expected at 5%; 30% and more where points are taken for independent


def test_a_decline_is_found_in_autocorrelated_noise():
    rng, found = np.random.default_rng(3), []
    steps = np.arange(1, 101)
    hill = 1 - ((steps - 50) / 50) ** 2
    for run in range(20):
        found.append(peak(steps, hill + 0.2 * autoregressive(rng, 100, 0.5), seed=run, draws=200)["over_optimised"])
    assert sum(found) >= 18


def test_noise_is_drawn_as_slow_as_the_curves_and_in_its_unit():
    rng, steps, neighbours = np.random.default_rng(4), np.arange(60.0), {}
    for correlation in (0.0, 0.95):
        gold = autoregressive(rng, 60, correlation)
        noise = correlated_noise(steps, gold, 300, np.random.default_rng(0))
        assert noise.shape == (300, 60)
        neighbours[correlation] = float((noise[:, 1:] * noise[:, :-1]).mean() / (noise**2).mean())
        large = correlated_noise(7 * steps, 5 + 1000 * gold, 300, np.random.default_rng(0))
        np.testing.assert_allclose(large, 1000 * noise, rtol=1e-6, atol=1e-6)
        if not correlation:
            assert 0.8 < noise.std() < 1.25
    assert neighbours[0.0] < 0.3 and neighbours[0.95] > 0.75


def test_fewer_than_four_points_have_no_peak():
    with pytest.raises(UserError, match="too few points"):
        peak(STEPS[:3], HILL[:3])
    with pytest.raises(UserError, match="too few points"):
        frontier([Point(step, step / 40, step / 50) for step in (1, 2, 3)])
    assert peak(STEPS[:4], HILL[:4])["step"] == STEPS[3]


def test_a_peak_may_lie_near_the_start():
    distance = np.linspace(0, 3, 20)
    found = fit(distance, distance * (0.8 - distance), "best_of_n")
    assert found["peak_distance"] == pytest.approx(0.4)
    falling = fit(distance, distance * (-0.8 - distance), "best_of_n")
    assert falling["alpha"] < 0 and falling["peak_distance"] is None


def test_a_best_of_n_curve_has_a_fit_of_each_reward_where_its_points_settle_one():
    curve = [{"n": 1 + 4 * d, "kl": d**2, "proxy": 2 + d, "gold": d * (1.5 - d)} for d in np.linspace(0, 2, 6)]
    proxy, gold = best_of_n_fits(curve)
    assert (proxy["of"], proxy["form"], proxy["alpha"]) == ("proxy", "best_of_n", pytest.approx(1.0))
    assert (gold["of"], gold["beta"], gold["peak_distance"]) == ("gold", pytest.approx(1.0), pytest.approx(0.75))
    assert best_of_n_fits(curve[:3]) == []


def test_a_reward_that_never_moves_has_no_fall():
    for value in (0.0, 0.1, 1.0, -3.3):
        found = peak(STEPS, np.full(len(STEPS), value))
        assert found["fall_p"] == 1 and not found["over_optimised"]


@pytest.mark.parametrize(
    ("form", "curve", "top"),
    [
        ("best_of_n", lambda d: 0.3 + d * (1.5 - 0.25 * d), 3.0),
        ("rl", lambda d: 0.3 + d * (1.5 - 0.8 * np.log(d)), np.exp(1.5 / 0.8 - 1)),
    ],
)
def test_fits_find_the_coefficients(form, curve, top):
    distance = np.linspace(0.05, 6, 80)
    exact = fit(distance, curve(distance), form)
    beta = 0.25 if form == "best_of_n" else 0.8
    assert (exact["alpha"], exact["beta"], exact["start"]) == pytest.approx((1.5, beta, 0.3))
    assert exact["peak_distance"] == pytest.approx(top) and exact["r2"] == pytest.approx(1)
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        found = fit(distance, curve(distance) + rng.normal(0, 0.1, 80), form)
        inside += abs(found["beta"] - beta) <= 1.99 * found["beta_se"]
    assert 182 <= inside <= 198


def test_what_cannot_be_fitted():
    assert fit(np.array([0.0, 0.0, 0.0, 0.0]), np.arange(4.0), "rl") is None
    assert fit(np.arange(3.0), np.arange(3.0), "rl") is None
    rising = fit(np.array([0.0, 0.5, 1.0, 2.0]), np.array([0.0, 0.5, 1.0, 2.0]) ** 3, "rl")
    assert rising["peak_distance"] is None


def metrics(steps=STEPS):
    hill = 1.0 - ((steps - 100) / 100) ** 2
    return [
        {"step": int(step), "reward": step / 50, "kl/completion": step / 40, "rewards/gold/mean": gold}
        | {"rewards/model/mean": step / 50}
        for step, gold in zip(steps, hill, strict=True)
    ] + [{"step": 204, "train_loss": 1.0}]


def test_points_of_a_log():
    points, name = logged_points([{"step": 1, "loss": 1.0}, *metrics()[:1], *metrics()])
    assert name == "gold" and len(points) == len(STEPS)
    assert (points[0].proxy, points[0].kl, points[24].gold) == (0.08, 0.1, 1.0)
    assert logged_points(metrics(), "model")[1] == "model"
    with pytest.raises(UserError, match="did you mean 'gold'"):
        logged_points(metrics(), "golb")
    with pytest.raises(UserError, match="several logged rewards"):
        logged_points([line | {"rewards/other/mean": 0.0} for line in metrics()])
    assert logged_points([{"step": 1, "reward": 1.0, "kl/completion": 0.1, "rewards/model/mean": 1.0}])[1] is None
    with pytest.raises(UserError, match="no logged step has both"):
        logged_points([{"step": 1, "loss": 1.0}])


def test_steps_without_a_number_are_left_out_of_a_log():
    nan = {"reward": float("nan"), "rewards/gold/mean": None, "kl/completion": float("inf")}
    lines = [line | {key: nan[key]} for line, key in zip(metrics()[:3], nan, strict=True)]
    points, _ = logged_points([*lines, *metrics()[3:]])
    assert [point.step for point in points] == STEPS[3:].tolist()
    assert frontier(points)["peak"]["step"] == 100


def test_long_logs_are_averaged_not_thinned():
    long = metrics(np.arange(1, 1001))
    points, _ = logged_points(long)
    assert len(points) == 334 and [points[0].step, points[-1].step] == [3, 1000]
    assert points[0].proxy == pytest.approx((1 + 2 + 3) / 3 / 50) and points[-1].kl == 1000 / 40
    assert points[1].gold == pytest.approx(np.mean([1.0 - ((step - 100) / 100) ** 2 for step in (4, 5, 6)]))


def test_the_reward_trained_on_is_told_from_those_beside_it_but_for_rounding():
    lines = [line | {"rewards/other/mean": 0.0, "rewards/model/mean": line["reward"] + 1e-6} for line in metrics()[:-1]]
    assert watched_rewards(lines) == ["gold", "other"] and watched_rewards([]) == []


def test_the_whole_frontier_is_json():
    points, _ = logged_points(metrics())
    found = json.loads(json.dumps(frontier(points), allow_nan=False))
    assert found["peak"]["step"] == 100 and found["peak"]["over_optimised"]
    assert found["peak"]["distance"] == pytest.approx((100 / 40) ** 0.5)
    assert found["points"][found["peak"]["index"]]["gold_smoothed"] == found["peak"]["gold"]
    assert [one["of"] for one in found["fits"]] == ["proxy", "gold"]
    assert Point(1, -0.01, 0.0).distance == 0
    without = frontier([Point(step, 0.1 * step, 1.0 * step) for step in range(5)])
    assert without["peak"] is None and [one["of"] for one in without["fits"]] == ["proxy"]
    with pytest.raises(UserError, match="too few points"):
        frontier(points[:3])


def test_log_probabilities_of_completions(model):
    prompts, completions = [[5, 6, 7], [8] * 9, [9]], [[10, 11], [12], [13, 14, 15, 2]]
    together = log_probabilities(model, prompts, completions, batch_size=3)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        by_hand = sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion))
        assert together[row].item() == pytest.approx(by_hand, abs=1e-4)


def length(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


def test_points_of_checkpoints(checkpoints):
    rows = [{"prompt": [{"role": "user", "content": f"hat {i}"}]} for i in range(40)]
    first, second = (checkpoints / stage / "checkpoint" for stage in ("pretrain", "sft"))
    sampling = Sampling(max_new_tokens=8)
    found = measured_points({5: first, 9: second}, first, rows, "chat", sampling, length, None)
    assert [point.step for point in found] == [0, 5, 9]
    # The same model as the reference says the same, and is at no distance; another is.
    assert (found[1].kl, found[1].proxy) == (pytest.approx(0.0, abs=1e-5), found[0].proxy)
    assert found[2].kl > 0.5 and found[0].proxy_se > 0 and found[0].gold is None
    with pytest.raises(UserError, match="temperature 1"):
        measured_points({}, first, rows, "chat", Sampling(temperature=0), length, None)


def call(*arguments) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def stage(tmp_path, checkpoints):
    stage = tmp_path / "runs/ppo"
    (stage / "trainer").mkdir(parents=True)
    (stage / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics())))
    (stage.parent / "sft").symlink_to(checkpoints / "sft")
    parents = {"model_name_or_path": "sft", "reward_model_path": f"{tmp_path}/r.py:length"}
    (stage / "stage.json").write_text(json.dumps({"parents": parents}))
    (tmp_path / "r.py").write_text(
        "def length(completions, **columns):\n    return [len(c[0]['content']) for c in completions]\n"
    )
    return stage


def test_the_command_on_a_log(stage, tmp_path, capsys):
    call(stage, "--json", tmp_path / "f.json")
    out = capsys.readouterr().out
    assert "highest at step 100" in out and "over-optimised since" in out and "gold: R(d)" in out
    found = json.loads((tmp_path / "f.json").read_text())
    assert (found["stage"], found["source"], found["proxy"], found["gold"]) == ("ppo", "log", "reward", "gold")
    with pytest.raises(UserError, match="needs --prompts"):
        call(stage, "--reference", "x")
    with pytest.raises(UserError, match="folder of a ppo stage"):
        call(tmp_path)


def test_the_command_on_checkpoints(stage, checkpoints, tmp_path, capsys):
    rows = [json.dumps({"prompt": f"hat {i}"}) for i in range(12)]
    (tmp_path / "p.jsonl").write_text("\n".join(rows))
    options = ("--prompts", tmp_path / "p.jsonl", "--max_new_tokens", 6)
    with pytest.raises(UserError, match="too few points"):
        call(stage, *options)
    for step in (2, 4):
        (stage / f"trainer/checkpoint-{step}").symlink_to(checkpoints / "pretrain/checkpoint")
    (stage / "checkpoint").symlink_to(checkpoints / "sft/checkpoint")
    call(stage, *options, "--gold", f"{tmp_path}/r.py:length", "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())
    assert [point["step"] for point in found["points"]] == [0, 2, 4, 204]
    assert found["points"][3]["kl"] == pytest.approx(0, abs=1e-5) and found["points"][1]["kl"] > 0.3
    assert all(point["proxy"] == point["gold"] for point in found["points"])
    assert "highest at step" in capsys.readouterr().out
