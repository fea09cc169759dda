"""State of PPO in a step checkpoint, besides the policy: the critic's weights, the adaptive beta and the baseline."""

import json
import os

import torch
from safetensors.torch import load_file, save_file

from alignment.trainers.ppo.scorers import Scorer

CRITIC_FILE = "value_model.safetensors"
STATE_FILE = "ppo_state.json"


def save_state(folder: str, critic: Scorer, beta: float, baseline: float | None) -> None:
    """Write the critic's trained weights and the state of beta and baseline into a step checkpoint."""
    save_file(critic.trained(), os.path.join(folder, CRITIC_FILE))
    with open(os.path.join(folder, STATE_FILE), "w", encoding="utf-8") as file:
        json.dump({"beta": beta, "baseline": baseline}, file)


def load_state(folder: str, critic: Scorer) -> tuple[float, float | None]:
    """Load the critic's trained weights from a step checkpoint, and return beta and baseline."""
    saved = load_file(os.path.join(folder, CRITIC_FILE))
    with torch.no_grad():
        for name, parameter in critic.trained().items():
            parameter.copy_(saved[name])
    with open(os.path.join(folder, STATE_FILE), encoding="utf-8") as file:
        state = json.load(file)
    return state["beta"], state["baseline"]
