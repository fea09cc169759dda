"""The GPT under the libraries around it: saving, Auto classes, PEFT, TRL."""

import json
import math
import pathlib
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from gpt_tiny import CLASSIC, MODERN, build, learn, save_with_letters
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import alignment
from alignment.models.gpt import GPTForCausalLM, GPTForSequenceClassification, GPTForTokenClassification

IDS = [[1, 5, 9, 4, 20, 11]]


LOAD = """
import json, sys
import torch, transformers, alignment
logits = {}
for path in sys.argv[1:]:
    name = path.rsplit("/", 1)[1].split("-")[0]
    model, report = getattr(transformers, name).from_pretrained(path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    tied = name == "AutoModelForCausalLM" and model.lm_head.weight is model.model.embed_tokens.weight
    output = model(torch.tensor(json.loads(sys.stdin.readline())))
    logits[path] = [type(model).__name__, tied, (output.logits if "logits" in output else output[0]).tolist()]
print(json.dumps(logits))
"""


def test_a_fresh_process_loads_every_head(tmp_path):
    saved = {
        "AutoModelForCausalLM-modern": build(MODERN),
        "AutoModelForCausalLM-classic": build(CLASSIC),
        "AutoModelForSequenceClassification": build(MODERN, GPTForSequenceClassification, num_labels=1),
        "AutoModelForTokenClassification": build(MODERN, GPTForTokenClassification, num_labels=3),
        "AutoModel": build(MODERN).model,
    }
    for name, model in saved.items():
        model.save_pretrained(tmp_path / name)
    with safe_open(tmp_path / "AutoModelForCausalLM-classic" / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 - not a dict
    command = [sys.executable, "-c", LOAD, *(str(tmp_path / name) for name in saved)]
    root = pathlib.Path(alignment.__file__).parents[1]
    lines = (json.dumps(IDS) + "\n") * len(saved)
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=root, timeout=600)
    assert ran.returncode == 0, ran.stderr
    loaded = json.loads(ran.stdout.splitlines()[-1])
    for name, model in saved.items():
        class_name, tied, logits = loaded[str(tmp_path / name)]
        assert class_name == type(model).__name__
        assert tied == (name == "AutoModelForCausalLM-classic")
        torch.testing.assert_close(torch.tensor(logits), model(torch.tensor(IDS))[0], rtol=0, atol=1e-6)


def test_checkpoint_changes_head(tmp_path):
    policy = build(MODERN)
    policy.save_pretrained(tmp_path)
    reward = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert isinstance(reward, GPTForSequenceClassification)
    weights = dict(policy.model.named_parameters())
    for name, parameter in reward.model.named_parameters():
        torch.testing.assert_close(parameter, weights[name])
    assert reward.score.weight.std() > 0


@pytest.mark.parametrize("shape", [MODERN, CLASSIC], ids=["modern", "classic"])
def test_lora_on_all_linear_layers(shape, tmp_path):
    build(shape).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", r=4, task_type="CAUSAL_LM"))
    adapted = {name.rsplit(".", 1)[1] for name in model.targeted_module_names}
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    assert adapted == projections | ({"gate_proj"} if shape is MODERN else set())

    ids = torch.tensor(IDS)
    losses = learn(model, ids)
    assert losses[-1] < losses[0] / 2
    for name, parameter in AutoModelForCausalLM.from_pretrained(tmp_path / "base").named_parameters():
        assert torch.equal(parameter, before[name])

    model.save_pretrained(tmp_path / "adapter")
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    expected = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
    torch.testing.assert_close(loaded.merge_and_unload()(ids).logits, expected, rtol=0, atol=1e-5)


@pytest.fixture
def checkpoint(tmp_path) -> str:
    return save_with_letters(build(MODERN), tmp_path / "model")


def one_step(config_class, tmp_path, **changes):
    options = {"max_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": "none"}
    options |= {"logging_steps": 1, "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no"}
    return config_class(output_dir=str(tmp_path / "trainer"), **options, **changes)


def first_loss(trainer):
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = [name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])]
    assert any("q_proj" in name for name in changed) and any("down_proj" in name for name in changed)
    return next(log["loss"] for log in trainer.state.log_history if "loss" in log)


def test_trl_sft_from_a_path(checkpoint, tmp_path):
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list([{"prompt": "a b c", "completion": " d e"}, {"prompt": "f", "completion": " g h i"}])
    trainer = SFTTrainer(checkpoint, args=one_step(SFTConfig, tmp_path, max_length=16), train_dataset=rows)
    assert isinstance(trainer.model, GPTForCausalLM)
    ids = [torch.tensor([[4, 5, 6, 7, 8, 2]]), torch.tensor([[9, 10, 11, 12, 2]])]
    log_probabilities = [build(MODERN)(row).logits[0, :-1].log_softmax(-1).gather(-1, row[0, 1:, None]) for row in ids]
    expected = -torch.cat((log_probabilities[0][2:], log_probabilities[1])).mean().item()
    assert first_loss(trainer) == pytest.approx(expected, rel=1e-3)


def test_trl_dpo_from_a_path_has_its_reference(checkpoint, tmp_path):
    from trl import DPOConfig, DPOTrainer

    rows = Dataset.from_list([{"prompt": "a b", "chosen": " c d", "rejected": " e"}] * 2)
    trainer = DPOTrainer(checkpoint, args=one_step(DPOConfig, tmp_path, max_length=16), train_dataset=rows)
    assert isinstance(trainer.ref_model, GPTForCausalLM)
    assert first_loss(trainer) == pytest.approx(math.log(2), rel=1e-4)  # policy and reference start equal


def test_trl_reward_from_a_path(checkpoint, tmp_path):
    from trl import RewardConfig, RewardTrainer

    rows = Dataset.from_list([{"prompt": "a b", "chosen": " c d e", "rejected": " f"}] * 2)
    trainer = RewardTrainer(checkpoint, args=one_step(RewardConfig, tmp_path, max_length=16), train_dataset=rows)
    assert isinstance(trainer.model, GPTForSequenceClassification)
    assert trainer.model.config.num_labels == 1
    with torch.no_grad():
        chosen, rejected = (
            trainer.model.eval()(torch.tensor([ids])).logits for ids in ([4, 5, 6, 7, 8, 2], [4, 5, 9, 2])
        )
    expected = -torch.nn.functional.logsigmoid(chosen - rejected).item()
    assert first_loss(trainer) == pytest.approx(expected, rel=1e-3)
