"""One optimizer step of the stages that TRL and Trainer train, in any setting, and the same step row by row."""

import json
from dataclasses import dataclass
from pathlib import Path

import ragged
import torch
from compared import assert_close, assert_same_gradients
from filelock import FileLock
from packed_equality import gradients
from ppo_cases import base_of, judge_adapter
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import Trainer, TrainerCallback
from trl import GRPOTrainer

from alignment.data.arguments import DataArguments
from alignment.models.loading import load_trainable
from alignment.stages import dpo, grpo, kto, pretrain, reward, sft
from alignment.stages.shared.lora import ModelArguments
from alignment.stages.shared.rollouts import RewardSources

KEYS = {"max_steps": 1, "max_grad_norm": 1e9, "learning_rate": 0.05, "optim": "sgd", "lr_scheduler_type": "constant"}
KEYS |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "bf16": False}
KEYS |= {"logging_steps": 1, "warmup_steps": 0, "weight_decay": 0.0}
ROWS, GROUP = 8, 4
CASES = {"model": list(ragged.MODELS), "adapter": [False, True], "tokenizer": list(ragged.TOKENIZERS)}
SETTINGS = {"micro_batch": [8, 2, 1], "order": [0, 1], "attention": ["sdpa", "eager"], "multiple": [None, 16]}


@dataclass(frozen=True)
class Case:
    model: str = "gpt"
    adapter: bool = False
    tokenizer: str = "ours"


@dataclass(frozen=True)
class Setting:
    """What must not matter: rows a micro-batch, their order, the attention backend, and padding to a multiple."""

    micro_batch: int = 8
    order: int = 0
    attention: str = "sdpa"
    multiple: int | None = None

    def keys(self, rows: int = ROWS) -> dict:
        sizes = {"per_device_train_batch_size": self.micro_batch, "per_device_eval_batch_size": self.micro_batch}
        return sizes | {"gradient_accumulation_steps": -(-rows // self.micro_batch)}

    def arranged(self, rows: list) -> list:
        if not self.order:
            return rows
        return [rows[place] for place in torch.randperm(len(rows), generator=seeded(self.order)).tolist()]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Watch(TrainerCallback):
    """The first step's gradients, what was logged, and the loss of each evaluation."""

    def __init__(self):
        self.gradients, self.logs = None, []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if self.gradients is None:
            self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))

    def logged(self, name: str) -> list[float]:
        return [entry[name] for entry in self.logs if name in entry]


# Rows and parents ----------------------------------------------------------------------------------------------------


def conversations() -> list[dict]:
    return [{"messages": ragged.ask(prompt) + ragged.say(reply or "x")} for prompt, reply, _ in ragged.TALKS]


def preferences() -> list[dict]:
    said = [ragged.say(reply or "x") for _, reply, _ in ragged.TALKS]
    return [
        {"prompt": ragged.ask(prompt), "chosen": said[place], "rejected": said[place - 3]}
        for place, (prompt, _, _) in enumerate(ragged.TALKS)
    ]


def labelled() -> list[dict]:
    rows = [(row, side) for row in preferences()[:4] for side in ("chosen", "rejected")]
    return [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for row, side in rows]


def prompts() -> list[dict]:
    return [{"prompt": ragged.ask(prompt)} for prompt, _, _ in ragged.TALKS[1:3]]


def documents() -> list[dict]:
    """Of many lengths; packed in rows of 50 tokens or more they are a step of 8 rows at most, not all of them full."""
    parts = [f"{prompt} {reply}" for prompt, reply, _ in ragged.TALKS]
    parts += [prompt for prompt, _, _ in ragged.TALKS] + ["Kite.", "x", ""]
    return [{"text": text} for text in parts]


def write(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with FileLock(path.with_suffix(".lock")):  # several processes write the same file: the first one alone
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return str(path)


def parent_of(case: Case, folder: Path, head: str = "lm") -> str:
    """A model or an adapter on it; with the head `score` of a classifier, so that no head is new."""
    if not case.adapter and head == "lm":
        return base_of(case, folder)
    if head == "score" and case.adapter:
        return judge_adapter(case, folder)
    place = folder / f"{head}-{case.model}-{case.tokenizer}{'-lora' * case.adapter}"
    if not place.exists():
        words = ragged.tokenizer(case.tokenizer)
        if case.adapter:
            base = load_trainable(base_of(case, folder), "causal-lm")
            made = ragged.adapted(base, task_type="CAUSAL_LM")
        else:
            made = ragged.model(case.model, words, head, seed=3)
        made.save_pretrained(place)
        words.save_pretrained(place)
    return str(place)


def data_of(path: Path, rows: list[dict], kind: type = DataArguments) -> DataArguments:
    return kind(write(path, rows), eval_share=0)


# Steps ---------------------------------------------------------------------------------------------------------------


def sft_trainer(case: Case, setting: Setting, folder: Path, out: Path, rows=None, **keys) -> Trainer:
    args = sft.SFTRecipe(
        str(out), **KEYS | setting.keys() | {"max_length": 120, "pad_to_multiple_of": setting.multiple} | keys
    )
    data = data_of(out / "rows.jsonl", setting.arranged(conversations() if rows is None else rows))
    return sft.make_trainer(args, data, model_arguments(case, setting, folder), out)[0]


def dpo_trainer(case: Case, setting: Setting, folder: Path, out: Path, rows=None, **keys) -> Trainer:
    """With a reference that is another model than the policy, so that no two pairs weigh the same."""
    options = {"max_length": 120, "pad_to_multiple_of": setting.multiple, "beta": 0.5, "loss_type": ["sigmoid"]}
    args = dpo.DPORecipe(str(out), **KEYS | setting.keys() | options | {"loss_weights": None} | keys)
    data = data_of(out / "rows.jsonl", setting.arranged(preferences() if rows is None else rows))
    trainer = dpo.make_trainer(args, data, model_arguments(case, setting, folder), out)
    stir_reference(trainer)
    return trainer


def kto_trainer(case: Case, setting: Setting, folder: Path, out: Path, rows=None, **keys) -> Trainer:
    """On the replies of the pairs, each by itself, with weights that tell the labels apart."""
    options = {"max_length": 120, "pad_to_multiple_of": setting.multiple, "beta": 0.5}
    options |= {"desirable_weight": 1.5, "undesirable_weight": 0.7}
    args = kto.KTORecipe(str(out), **KEYS | setting.keys() | options | keys)
    data = data_of(out / "rows.jsonl", setting.arranged(labelled() if rows is None else rows))
    trainer = kto.make_trainer(args, data, model_arguments(case, setting, folder), out)
    stir_reference(trainer)
    return trainer


def mod_seven(completion_ids: list[list[int]], **columns) -> list[float]:
    return [float(sum(ids) % 7) for ids in completion_ids]


def grpo_trainer(case: Case, setting: Setting, folder: Path, out: Path, monkeypatch, **keys) -> Trainer:
    """On scripted completions: the k-th of a prompt is always the same."""
    options = {"num_generations": GROUP, "max_completion_length": ragged.LONGEST, "beta": 0.3, "temperature": 0.7}
    args = grpo.GRPORecipe(str(out), **KEYS | setting.keys() | options | keys)
    rows = setting.arranged(prompts())
    sources = RewardSources(reward_funcs=[f"{__file__}:mod_seven"])
    script_completions(case, monkeypatch)
    data = data_of(out / "rows.jsonl", rows)
    trainer = grpo.make_trainer(args, data, model_arguments(case, setting, folder), sources, out)
    stir_reference(trainer)
    return trainer


def model_arguments(case: Case, setting: Setting, folder: Path, head: str = "lm") -> ModelArguments:
    return ModelArguments(parent_of(case, folder, head), attn_implementation=setting.attention)


def stir_reference(trainer: Trainer) -> None:
    if trainer.ref_model is not None:
        ragged.stirred(trainer.accelerator.unwrap_model(trainer.ref_model), 9, "proj", std=0.2)
    else:
        ragged.stirred(trainer.model, 9, "lora_B.ref")


def group_of(name: str, words, prompt: list[int]) -> list[list[int]]:
    """The completions that a prompt is given, in order."""
    places = [ragged.prompt_ids(words, row["prompt"][0]["content"]) for row in prompts()]
    first = GROUP * places.index(list(prompt))
    return [ragged.completion_ids(name, words, *talk[1:]) for talk in ragged.TALKS[first : first + GROUP]]


def script_completions(case: Case, monkeypatch) -> None:
    words = ragged.tokenizer(case.tokenizer)

    def generate(self, prompt_ids, *arguments, **options):
        seen: dict[tuple, int] = {}
        completions = []
        for prompt in map(tuple, prompt_ids):
            completions.append(group_of(case.tokenizer, words, prompt)[seen.setdefault(prompt, 0)])
            seen[prompt] += 1
        return completions, None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)


def first_step(trainer: Trainer) -> Watch:
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    return watch


def run_stage(module, args, data, model_args, **others) -> Watch:
    watch = Watch()
    module.run(args, data, model_args, callbacks=[watch], **others)
    return watch


# The same, row by row ------------------------------------------------------------------------------------------------


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def token_losses(model: nn.Module, ids: list[int]) -> Tensor:
    """-log p of every token but the first."""
    row = torch.tensor([ids])
    return (
        -model(input_ids=row, use_cache=False).logits[0, :-1].float().log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
    )


def reply_log_probs(model: nn.Module, prompt: list[int], reply: list[int], temperature: float = 1.0) -> Tensor:
    row = torch.tensor([[*prompt, *reply]])
    logits = model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(1, row[0, len(prompt) :, None])[:, 0]


def reference_log_probs(trainer: Trainer, *arguments) -> Tensor:
    with torch.no_grad():
        if trainer.ref_model is not None:
            return reply_log_probs(trainer.ref_model, *arguments)
        model = trainer.model
        model.set_adapter("ref")
        found = reply_log_probs(model, *arguments)
        model.set_adapter("default")
        return found


def replies_learned(case: Case, trainer: Trainer) -> None:
    """Labels are the replies and their ends, and nothing else."""
    words = ragged.tokenizer(case.tokenizer)
    labels = [[label for label in row["labels"] if label != -100] for row in trainer.train_dataset]
    found = sorted(text.strip() for text in words.batch_decode(labels))
    wanted = sorted(row["messages"][1]["content"].strip() + ragged.END[case.tokenizer] for row in conversations())
    assert found == wanted, "labels"


def sft_loss(trainer: Trainer) -> Tensor:
    """The mean over the labelled tokens of all rows."""
    total, count = 0.0, 0
    for row in trainer.train_dataset:
        labels = torch.tensor(row["labels"][1:])
        total = total + (token_losses(trainer.model, row["input_ids"]) * (labels != -100)).sum()
        count += int((labels != -100).sum())
    return total / count


def dpo_loss(trainer: Trainer) -> Tensor:
    losses = []
    for row in trainer.train_dataset:
        margins = []
        for side in ("chosen_ids", "rejected_ids"):
            ids = (row["prompt_ids"], row[side])
            margins.append(reply_log_probs(trainer.model, *ids).sum() - reference_log_probs(trainer, *ids).sum())
        losses.append(-logsigmoid(trainer.args.beta * (margins[0] - margins[1])))
    return torch.stack(losses).mean()


def kto_loss(trainer: Trainer) -> Tensor:
    """Eq. 7 and 8 of arXiv 2402.01306: a batch's KL is that of its prompts with the reply of the row before each."""
    args, size, batches = trainer.args, trainer.args.per_device_train_batch_size, []
    rows = list(trainer.train_dataset)

    def margin(prompt: list[int], reply: list[int]) -> Tensor:
        ids = (prompt, reply)
        return reply_log_probs(trainer.model, *ids).sum() - reference_log_probs(trainer, *ids).sum()

    for batch in (rows[start : start + size] for start in range(0, len(rows), size)):
        kl, losses = torch.tensor(0.0), []
        if args.loss_type == "kto":
            before = [batch[place - 1]["completion_ids"] for place in range(len(batch))]
            pairs = zip(batch, before, strict=True)
            kl = torch.stack([margin(row["prompt_ids"], reply).detach() for row, reply in pairs]).mean().clamp(min=0)
        for row in batch:
            sign, weight = (1, args.desirable_weight) if row["label"] else (-1, args.undesirable_weight)
            gain = margin(row["prompt_ids"], row["completion_ids"])
            losses.append(weight * (1 - torch.sigmoid(sign * args.beta * (gain - kl))))
        batches.append(torch.stack(losses).mean())
    return torch.stack(batches).mean()


def grpo_loss(case: Case, trainer: Trainer) -> Tensor:
    """TRL's default, DAPO: the mean over all tokens; advantages by the mean and the deviation of each group.

    The KL counts by the ratio too (`use_bias_correction_kl`).
    """
    words, args = ragged.tokenizer(case.tokenizer), trainer.args
    total, count = 0.0, 0
    for row in prompts():
        prompt = ragged.prompt_ids(words, row["prompt"][0]["content"])
        group = group_of(case.tokenizer, words, prompt)
        rewards = torch.tensor([float(sum(ids) % 7) for ids in group])
        for advantage, reply in zip((rewards - rewards.mean()) / (rewards.std() + 1e-4), group, strict=True):
            log_probs = reply_log_probs(trainer.model, prompt, reply, args.temperature)
            gap = reference_log_probs(trainer, prompt, reply, args.temperature) - log_probs
            ratio = (log_probs - log_probs.detach()).exp()
            total = total + ((args.beta * (gap.exp() - gap - 1) - advantage) * ratio).sum()
            count += len(reply)
    return total / count


def reward_loss(model: nn.Module, words) -> Tensor:
    losses = []
    for row in preferences():
        texts = [row["prompt"] + row[side] for side in ("chosen", "rejected")]
        ids = words.apply_chat_template(texts, return_dict=True)["input_ids"]
        scores = [model(torch.tensor([one])).logits[0, 0] for one in ids]
        losses.append(-logsigmoid(scores[0] - scores[1]))
    return torch.stack(losses).mean()


def document_loss(model: nn.Module, words, texts: list[str], length: int = 64) -> Tensor:
    """The mean over the tokens of documents, each alone, or pieces of them of a row's length: all but their first."""
    end = words.eos_token_id
    rows = [ids if ids[-1:] == [end] else [*ids, end] for ids in words(texts)["input_ids"]]
    pieces = [row[start : start + length] for row in rows for start in range(0, len(row), length)]
    return torch.cat([token_losses(model, piece) for piece in pieces if len(piece) > 1]).mean()


# Checks --------------------------------------------------------------------------------------------------------------


def assert_step(watch: Watch, model: nn.Module, loss: Tensor) -> None:
    """A step's logged loss and gradients are those of a loss computed row by row."""
    wanted = gradients(model, loss)
    model.zero_grad()
    assert_close(watch.logged("loss")[:1], [loss.item()], "the loss", 1e-4)
    assert_same_gradients(watch.gradients, wanted, "gradients")


def check_trainer(trainer: Trainer, loss: Tensor) -> None:
    wanted = gradients(trainer.model, loss)
    trainer.model.zero_grad()
    watch = first_step(trainer)
    assert_close(watch.logged("loss")[:1], [loss.item()], "the loss", 1e-4)
    assert_same_gradients(watch.gradients, wanted, "gradients")


def check_sft(case: Case, setting: Setting, folder: Path, out: Path, **keys) -> None:
    trainer = sft_trainer(case, setting, folder, out, **keys)
    replies_learned(case, trainer)
    check_trainer(trainer, sft_loss(trainer))


def check_dpo(case: Case, setting: Setting, folder: Path, out: Path, **keys) -> None:
    trainer = dpo_trainer(case, setting, folder, out, **keys)
    check_trainer(trainer, dpo_loss(trainer))


def check_kto(case: Case, setting: Setting, folder: Path, out: Path, **keys) -> None:
    """Without its KL, whose estimate belongs to the batch, a step hangs on nothing but its rows."""
    trainer = kto_trainer(case, setting, folder, out, loss_type="apo_zero_unpaired", **keys)
    check_trainer(trainer, kto_loss(trainer))


def check_grpo(case: Case, setting: Setting, folder: Path, out: Path, monkeypatch, **keys) -> None:
    trainer = grpo_trainer(case, setting, folder, out, monkeypatch, **keys)
    check_trainer(trainer, grpo_loss(case, trainer))


def check_reward(case: Case, setting: Setting, folder: Path, out: Path, **keys) -> None:
    options = {"max_length": 120, "pad_to_multiple_of": setting.multiple}
    args = reward.RewardRecipe(str(out / "stage"), **KEYS | setting.keys() | options | keys)
    data = data_of(out / "rows.jsonl", setting.arranged(preferences()), reward.RewardArguments)
    watch = run_stage(reward, args, data, model_arguments(case, setting, folder, "score"))
    words = ragged.tokenizer(case.tokenizer)
    model = load_trainable(parent_of(case, folder, "score"), "sequence-classification")
    model.config.pad_token_id = words.pad_token_id
    assert_step(watch, model, reward_loss(model, words))


def check_pretrain(case: Case, setting: Setting, folder: Path, out: Path, rows=None, **keys) -> None:
    """Documents packed in rows are learned as each alone."""
    rows = documents() if rows is None else rows
    keys = KEYS | setting.keys() | {"max_length": 64, "self_check": False} | keys  # which would find faults before this
    args = pretrain.PretrainRecipe(str(out / "stage"), **keys)
    model_args = pretrain.PretrainArguments(model_name_or_path=base_of(case, folder))
    data = data_of(out / "rows.jsonl", setting.arranged(rows))
    words, model = ragged.tokenizer(case.tokenizer), load_trainable(base_of(case, folder), "causal-lm", dtype="float32")
    watch = Watch()
    pretrain.run(model_args, data, args, [watch])
    assert_step(watch, model, document_loss(model, words, [row["text"] for row in rows], args.max_length))


def check_validation(case: Case, batch_size: int, folder: Path, out: Path, **keys) -> None:
    """Pretraining's validation loss is the mean over the tokens of its documents."""
    write(out / "text/train.jsonl", [{"text": f"Horse {n}."} for n in range(2)])
    write(out / "text/validation.jsonl", documents())
    keys = {"learning_rate": 0.0, "per_device_eval_batch_size": batch_size, "max_length": 64} | keys
    args = pretrain.PretrainRecipe(str(out / "stage"), **KEYS | keys)
    parent = base_of(case, folder)
    model_args = pretrain.PretrainArguments(model_name_or_path=parent)
    result = pretrain.run(model_args, DataArguments(str(out / "text")), args)
    texts = [row["text"] for row in documents()]
    wanted = document_loss(load_trainable(parent, "causal-lm"), ragged.tokenizer(case.tokenizer), texts)
    assert_close([result.metrics["eval_loss"]], [wanted.item()], "the validation loss", 1e-4)
