"""TRL 1.12's PPOTrainer, to be run in a process of its own with TRL 1.12 on PYTHONPATH:

    python trl_1_12_ppo.py update FOLDER
    python trl_1_12_ppo.py curves FOLDER SEED...

FOLDER holds `policy` (with its tokenizer), `reference`, `reward`, `critic` and config.json (keys of PPOConfig).

`update` trains once on a frozen rollout, responses.json (each prompt's token ids and its padded response's), and writes
update.safetensors: the rollout's tensors; losses, weights and gradients of each backward pass; the weights after the
last. `curves` trains on prompts.json (token ids) from each seed, and writes curves.json: the mean score of each update.
"""

import gc
import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

# Local variables of PPOTrainer.train; those of a rollout are all in one order, that of the shuffled prompts.
ROLLOUT = ("query_responses", "logprobs", "ref_logprobs", "scores", "values", "rewards", "advantages", "returns")
LOSSES = ("pg_loss", "vf_loss")


def frozen_generate(model, responses: list[tuple[list[int], list[int]]]):
    """A stand-in for model.generate: known responses, with the scores that sampling them would have given."""

    def generate(input_ids, attention_mask, **_):
        queries = [row[mask].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        found = [next(response for prompt, response in responses if prompt == query) for query in queries]
        sequences = torch.cat([input_ids, torch.tensor(found)], dim=1)
        mask = torch.cat([attention_mask, torch.ones_like(sequences[:, input_ids.shape[1] :])], dim=1)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = model(input_ids=sequences, attention_mask=mask, position_ids=positions).logits
        return SimpleNamespace(sequences=sequences, scores=logits[:, input_ids.shape[1] - 1 : -1].unbind(1))

    return generate


def recording_backward(trainer: PPOTrainer, found: dict[str, torch.Tensor]):
    """trainer.accelerator.backward, which also records what its caller has computed."""
    backward, passes = trainer.accelerator.backward, []

    def wrapper(loss, **kwargs):
        local = inspect.currentframe().f_back.f_locals
        prefix = f"pass{len(passes)}"
        passes.append(prefix)
        found.update({name: local[name].clone() for name in ROLLOUT})
        found.update({f"{prefix}.{name}": local[name].detach().clone() for name in LOSSES})
        found.update(named(trainer, f"{prefix}.weight"))
        backward(loss, **kwargs)
        found.update(named(trainer, f"{prefix}.grad", lambda parameter: parameter.grad))

    return wrapper


def named(trainer: PPOTrainer, prefix: str, read=lambda parameter: parameter) -> dict[str, torch.Tensor]:
    """A tensor for each parameter of policy and critic."""
    return {
        f"{prefix}.{owner}.{name}": read(parameter).detach().clone()
        for owner, model in [("policy", trainer.policy_model), ("critic", trainer.value_model)]
        for name, parameter in model.named_parameters()
    }


def make_trainer(folder: Path, config: dict, prompts: list[list[int]]) -> PPOTrainer:
    return PPOTrainer(
        PPOConfig(str(folder / "out"), **config),
        AutoTokenizer.from_pretrained(folder / "policy", padding_side="left"),
        AutoModelForCausalLM.from_pretrained(folder / "policy"),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "reference"),
        reward_model=AutoModelForSequenceClassification.from_pretrained(folder / "reward"),
        value_model=AutoModelForSequenceClassification.from_pretrained(folder / "critic"),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
    )


def update(folder: Path, config: dict) -> dict[str, torch.Tensor]:
    responses = read(folder / "responses.json")
    trainer = make_trainer(folder, config, [prompt for prompt, _ in responses])
    trainer.policy_model.generate = frozen_generate(trainer.policy_model, responses)
    found: dict[str, torch.Tensor] = {}
    trainer.accelerator.backward = recording_backward(trainer, found)
    trainer.train()
    found.update(named(trainer, "trained"))
    return {name: tensor.contiguous() for name, tensor in found.items()}


def curve(folder: Path, config: dict, seed: int) -> list[float]:
    """The mean score of each update's completions."""
    trainer = make_trainer(folder, config | {"seed": seed}, read(folder / "prompts.json"))
    trainer.train()
    return [entry["objective/scores"] for entry in trainer.state.log_history if "objective/scores" in entry]


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def main(command: str, folder: Path, *seeds: str) -> None:
    config = read(folder / "config.json")
    if command == "update":
        save_file(update(folder, config), folder / "update.safetensors")
    else:
        gc.freeze()  # PPOTrainer collects garbage twice an update, mostly among what has been imported
        curves = [curve(folder, config, int(seed)) for seed in seeds]
        (folder / "curves.json").write_text(json.dumps(curves), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
