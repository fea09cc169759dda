"""docs/ppo-migration.md: every key of trl 1.12's PPO has its place, and the new code of the example runs."""

import inspect
import re
from pathlib import Path

import ppo_tiny as tiny
import pytest

from alignment.errors import UserError
from alignment.trainers.ppo.config import RENAMED_KEYS, PPOConfig
from alignment.trainers.ppo.trainer import PPOTrainer

PAGE = (Path(__file__).parents[3] / "docs/ppo-migration.md").read_text(encoding="utf-8")
# The fields of trl 1.12's PPOConfig and of the base config that TRL's trainers share, without TrainingArguments' own.
OLD_KEYS = """
    learning_rate logging_steps bf16 gradient_checkpointing push_to_hub
    dataset_num_proc num_mini_batches total_episodes local_rollout_forward_batch_size num_sample_generations
    response_length stop_token stop_token_id temperature missing_eos_penalty sft_model_path world_size
    num_total_batches micro_batch_size local_batch_size batch_size local_mini_batch_size mini_batch_size
    reward_model_path model_adapter_name ref_adapter_name num_ppo_epochs whiten_rewards kl_coef kl_estimator
    cliprange vf_coef cliprange_value gamma lam ds3_gather_for_generation
"""
OLD_ARGUMENTS = """
    args processing_class model ref_model reward_model train_dataset value_model data_collator eval_dataset optimizers
    callbacks peft_config
"""
OF_RECIPES = {"model_name_or_path", "reward_model_path"}


def table(heading: str) -> dict[str, str]:
    """The table of a section: first column -> second column."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {old.strip(): new.strip() for old, new, *_ in rows}


def words(cell: str) -> set[str]:
    return {word.split(":")[0] for word in re.findall("`([^`]+)`", cell)}


def parameters() -> set[str]:
    return set(inspect.signature(PPOTrainer).parameters)


@pytest.mark.parametrize("key", OLD_KEYS.split())
def test_every_old_key_is_a_key_or_is_refused_with_its_new_name(key, tmp_path):
    if key not in PPOConfig.__dataclass_fields__:
        assert key in RENAMED_KEYS
        with pytest.raises(UserError, match=f"{key}: "):
            PPOConfig(str(tmp_path), **{key: None})


def test_the_page_has_every_old_key_and_argument_and_nothing_else():
    assert {old.strip("`") for old in table("Keys")} == {*OLD_KEYS.split()} >= RENAMED_KEYS.keys()
    assert {old.strip("`") for old in table("Arguments")} == {*OLD_ARGUMENTS.split()}


def test_the_page_names_existing_keys():
    known = PPOConfig.__dataclass_fields__.keys() | parameters() | OF_RECIPES
    for heading in ("Keys", "Arguments"):
        for old, new in table(heading).items():
            assert words(new) <= known, old
            assert words(new) or new == "gone", old


def test_the_new_code_runs_and_logs_what_the_page_says(tmp_path, monkeypatch):
    tiny.model().save_pretrained(tmp_path / "models/sft")
    tiny.tokenizer().save_pretrained(tmp_path / "models/sft")
    tiny.model(head="score", seed=3).save_pretrained(tmp_path / "models/reward")
    monkeypatch.chdir(tmp_path)
    old, new = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert {*re.findall(r"^    (\w+)=", old, flags=re.MULTILINE)} <= {
        *PPOConfig.__dataclass_fields__, *OLD_KEYS.split(), *OLD_ARGUMENTS.split()
    }  # fmt: skip
    names = {}
    exec(compile(new, "docs/ppo-migration.md", "exec"), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 32 and len(tiny.logged(trainer, "reward")) == 4
    assert (tmp_path / "models/ppo/model.safetensors").is_file()
    named = set().union(*map(words, table("Metrics").values())) - PPOConfig.__dataclass_fields__.keys()
    assert named <= {"learning_rate", *trainer.state.log_history[0]}
