"""What a PPO recipe is rewarded by, and the gold reward that is watched beside it."""

from pathlib import Path

import ppo_tiny as tiny
import pytest

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import load_splits
from alignment.data.tinyworld import gold
from alignment.data.tinyworld.tasks import Task
from alignment.errors import UserError
from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.stages import STAGES, ppo
from reward_models.functions import load_function
from reward_models.tinyworld import gold_reward

RECIPES = Path(__file__).parents[2] / "recipes"


def sources(recipe: dict) -> ppo.RewardSources:
    keys = ("reward_model_path", "reward_funcs", "reward_weights")
    [built] = build_configs((ppo.RewardSources,), {key: recipe[key] for key in keys if key in recipe}, "ppo.yaml")
    return built


@pytest.mark.parametrize("name", ["tiny", "tiny-lora"])
def test_the_recipes_watch_the_gold_reward_and_do_not_train_on_it(name):
    built = sources(read_recipe(RECIPES / name / "ppo.yaml"))
    assert built.reward_weights == [1.0, 0.0]
    assert [load_function(spec) for spec in built.reward_funcs] == [gold_reward]


def test_own_files_have_no_gold_reward():
    built = sources(read_recipe(RECIPES / "local-files/ppo.yaml", {"preferences": "pairs.jsonl"}))
    assert built.reward_model_path and not built.reward_funcs


def test_the_gold_reward_reads_the_prompts_as_the_stage_loads_them():
    prompts = DataArguments("tinyworld:prompts?prompts=30")
    rows = load_splits(prompts, STAGES["ppo"].data, 0, keep=None)["train"].to_dict()
    tasks = [Task.from_json(text) for text in rows["task"]]
    for replies in ([task.answer for task in tasks], ["You fool."] * len(tasks)):
        completions = [[{"role": "assistant", "content": reply}] for reply in replies]
        scores = gold_reward(completions=completions, prompts=rows["prompt"], task=rows["task"], family=rows["family"])
        assert scores == [gold.gold_reward(*pair).score for pair in zip(tasks, replies, strict=True)]
    assert len(scores) == 30 and max(scores) < 0
    assert gold_reward(completions=completions, prompts=rows["prompt"]) == [None] * 30


@pytest.mark.parametrize(
    "recipe",
    [
        {"reward_model_path": "reward", "reward_weights": [1.0, 0.0]},
        {"reward_model_path": None, "reward_funcs": ["reward_models.tinyworld:gold_reward"], "reward_weights": [1, 0]},
    ],
)
def test_weights_that_do_not_fit_are_refused_before_any_stage_runs(recipe):
    with pytest.raises(UserError, match="does not fit the rewards"):
        sources(recipe)


def test_a_watched_reward_changes_nothing(tmp_path):
    def watched(completion_ids, **columns):
        return [None, *[100.0] * (len(completion_ids) - 1)]

    results = []
    for rewards, weights in [([], None), ([watched], [1.0, 0.0])]:
        judge = tiny.model(head="score", seed=3)
        run = tiny.trainer(tmp_path, reward_funcs=[judge, *rewards], arguments={"reward_weights": weights})
        run.train()
        results.append((tiny.weights(run.model), tiny.weights(run.value_model), tiny.logged(run, "reward")))
    (policy, critic, reward), (other_policy, other_critic, other_reward) = results
    assert tiny.same_weights(policy, other_policy) and tiny.same_weights(critic, other_critic)
    assert reward == other_reward and tiny.logged(run, "rewards/watched/mean") == [100.0, 100.0]
