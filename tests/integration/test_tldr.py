"""recipes/tldr-pythia-1b on a stand-in for its model and data, which are on the hub."""

import json

import pytest
import pythia_tiny
from align_cli import REPOSITORY, align


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pythia")
    return pythia_tiny.save(folder / "model"), *pythia_tiny.save_data(folder)


def options(stand_in) -> list[str]:
    model, tldr, preference = stand_in
    return [
        f"--sft.model_name_or_path={model}",
        f"--sft.dataset_name={tldr}",
        f"--ppo.dataset_name={tldr}",
        f"--reward.dataset_name={preference}",
        f"--dpo.dataset_name={preference}",
        *(f"--{stage}.gradient_accumulation_steps=2" for stage in ("sft", "reward", "dpo")),
        *("--ppo.per_device_train_batch_size=2", "--ppo.steps_per_generation=2", "--ppo.gradient_accumulation_steps=1"),
        *("--ppo.max_completion_length=8", "--ppo.save_strategy=no"),
    ]


@pytest.fixture(scope="module")
def run(stand_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tldr")
    (folder / "recipes").symlink_to(REPOSITORY / "recipes")
    done = align("run", "recipes/tldr-pythia-1b", "--quick", *options(stand_in), cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs/tldr-pythia-1b"


def test_all_stages_run_and_train_in_32_bit(run):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    for stage in ("sft", "dpo", "ppo"):
        model = AutoModelForCausalLM.from_pretrained(run / stage / "checkpoint")
        assert str(model.dtype) == "torch.float32"  # the parent's weights are in 16 bit
    assert AutoModelForSequenceClassification.from_pretrained(run / "reward/checkpoint").config.num_labels == 1


def test_the_reward_is_read_at_the_eos_token(run):
    """Padding is not the EOS token: with pad = eos the score would be that of the token before it."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "ppo/checkpoint")
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|padding|>", "<|endoftext|>")
    assert AutoConfig.from_pretrained(run / "reward/checkpoint").pad_token_id == tokenizer.pad_token_id
    generation = json.loads((run / "sft/checkpoint/generation_config.json").read_text())
    assert generation["eos_token_id"] in (tokenizer.eos_token_id, [tokenizer.eos_token_id])


@pytest.mark.parametrize("assistant_only", [False, True])
def test_the_eos_token_is_learned(stand_in, assistant_only, monkeypatch, tmp_path):
    """What the sft stage's trainer makes of a row: post, space, summary, EOS; the loss reaches the EOS token."""
    from trl import SFTTrainer

    from alignment.data.preparing.load import load_splits
    from alignment.models.loading import load_tokenizer, load_trainable
    from alignment.pipeline.graph import load_pipeline

    monkeypatch.chdir(REPOSITORY)
    overrides = [*options(stand_in), f"--sft.assistant_only_loss={str(assistant_only).lower()}"]
    args, data, model_args = load_pipeline("recipes/tldr-pythia-1b", overrides).stages[0].configs(tmp_path)
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    rows = load_splits(data, "sft", 0)["train"].select_columns(["messages"])
    model = load_trainable(model_args.model_name_or_path, "causal-lm")
    trainer = SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        text = tokenizer.decode(ids[:length])
        assert text.endswith("keys.<|endoftext|>") and "TL;DR: Lost" in text and text.count("<|endoftext|>") == 1
        assert labels[length - 1] == tokenizer.eos_token_id
        assert (labels[0] == -100) == assistant_only
        assert (labels[length:] == -100).all()


def test_a_prompt_is_the_beginning_of_what_is_learned(run):
    """Sampling starts from the very tokens that training has before a summary."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "sft/checkpoint")
    post = {"role": "user", "content": pythia_tiny.POSTS[3]}
    whole = tokenizer.apply_chat_template(
        [post, {"role": "assistant", "content": pythia_tiny.SUMMARIES[3]}], return_dict=True
    )["input_ids"]
    prompt = tokenizer.apply_chat_template([post], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert whole[: len(prompt)] == prompt == tokenizer(pythia_tiny.POSTS[3])["input_ids"]
