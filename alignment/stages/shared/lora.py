"""LoRA in the stages: the adapter that is trained, its base, and its reference."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from peft import LoraConfig, PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from trl import ModelConfig

from alignment.errors import UserError, raise_all
from alignment.models.adapters import copy_adapter, frozen_copy, put_on_top, run_under
from alignment.models.checkpoints import is_adapter
from alignment.models.examined.adapter_settings import load_adapter_settings
from alignment.models.loading import REFERENCE_ADAPTER, load_stack, load_trainable
from alignment.models.merging import merge_once
from alignment.models.quantization import quantization_of, require_quantization
from alignment.models.vocabulary import make_room, require_rows
from alignment.stages import CLASSIFIER, STAGES
from alignment.stages.keys.adapter_keys import OWN_TASK, impossible_values, lora_config, try_adapter
from alignment.stages.shared.stage_run import INITIAL_ADAPTER
from alignment.tokenization.chat_format import apply_template

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments(ModelConfig):
    """TRL's `ModelConfig`, and how a stage continues from a parent that is an adapter."""

    adapter_mode: Literal["continue", "stack", "merge"] = field(
        default="continue",
        metadata={
            "help": "If the parent is an adapter: train that adapter further (continue), train a new one on top of it "
            "(stack), or merge it into its base, write the merged base next to the checkpoint, and train a new adapter "
            "on that (merge)."
        },
    )
    init_lora_weights: str | None = field(
        default=None,
        metadata={
            "help": "PEFT's key for initialising a new adapter: gaussian, orthogonal, pissa, or pissa_niter_4 (faster, "
            "approximate). A PiSSA adapter is saved as plain LoRA of twice the rank, on the unchanged base."
        },
    )
    loraplus_lr_ratio: float | None = field(
        default=None,
        metadata={"help": "LoRA+: learning rate of LoRA's B matrices, as a multiple of the rate of its A matrices."},
    )

    def __post_init__(self) -> None:
        raise_all([*impossible_values(self)])
        super().__post_init__()
        # TRL turns a list of one name into a string, which PEFT reads as a regular expression for whole module names.
        if isinstance(self.lora_target_modules, str) and self.lora_target_modules.isidentifier():
            self.lora_target_modules: list[str] | str | None = [self.lora_target_modules]


@dataclass(frozen=True)
class Start:
    """The model that a stage trains.

    Attributes:
        peft_config: the adapter that the trainer is to add; None if the model has its adapter, or is trained in full.
        reference: the parent model, if the trainer would not use it as reference by default.
    """

    model: PreTrainedModel | PeftModel
    peft_config: LoraConfig | None = None
    reference: PreTrainedModel | None = None

    @property
    def callbacks(self) -> list[TrainerCallback]:
        adapters = self.model.active_adapters if isinstance(self.model, PeftModel) else []
        return [KeepStack(adapters)] if len(adapters) > 1 else []


class KeepStack(TrainerCallback):
    """Activates all adapters of a stack when training begins: a Trainer that resumes activates only the first."""

    def __init__(self, adapters: list[str]):
        self.adapters = adapters

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        run_under(model, self.adapters)


def check_adapter(model_args: ModelArguments, method: str) -> None:
    """Raise one error with all problems if the stage cannot train the adapter that its keys describe."""
    raise_all([*_wrong_mode(model_args), *_wrong_keys(model_args, method)])
    if model_args.load_in_4bit or model_args.load_in_8bit:
        require_quantization(f"load_in_{'4' if model_args.load_in_4bit else '8'}bit: true")
    new = model_args.adapter_mode != "continue" or not is_adapter(model_args.model_name_or_path)
    if model_args.use_peft and new:
        try_adapter(model_args, STAGES[method].checkpoint)


def _wrong_mode(model_args: ModelArguments) -> Iterator[UserError]:
    mode, parent = model_args.adapter_mode, model_args.model_name_or_path
    if mode == "continue" or not is_adapter(parent):
        return
    if not model_args.use_peft:
        yield UserError(
            f"adapter_mode: {mode} trains a new adapter, but the recipe defines none",
            got="use_peft: false",
            expected="use_peft: true, with lora_r and the adapter's other keys",
            fix="set use_peft: true, or adapter_mode: continue; to train all weights, `align merge` the parent first",
        )
    if mode == "stack" and (saved := load_adapter_settings(parent).modules_to_save):
        yield UserError(
            "an adapter that trained modules as a whole cannot get another adapter stacked on it",
            got=f"the parent's modules_to_save: {', '.join(saved)}",
            expected="a parent with low-rank matrices alone: PEFT runs such modules for one adapter at a time",
            fix="adapter_mode: merge, or continue",
        )
    if mode == "stack" and (model_args.use_dora or _changes_base(model_args)):
        yield UserError(
            "a DoRA or PiSSA adapter cannot be stacked on another adapter",
            got=f"use_dora: {model_args.use_dora}, init_lora_weights: {model_args.init_lora_weights}",
            expected="plain LoRA: DoRA and PiSSA start from the base's weights, without the parent's adapter",
            fix="adapter_mode: merge, or use_dora: false and no init_lora_weights",
        )


def _wrong_keys(model_args: ModelArguments, method: str) -> Iterator[UserError]:
    begin, new = model_args.init_lora_weights, model_args.use_peft
    task = "SEQ_CLS" if STAGES[method].checkpoint == CLASSIFIER else "CAUSAL_LM"
    if new and model_args.lora_task_type not in (task, OWN_TASK):
        yield UserError(
            f"lora_task_type is not the task of the {method} stage",
            got=model_args.lora_task_type,
            expected=task,
            fix="leave it out: a stage knows its task",
        )
    quantised = model_args.load_in_4bit or model_args.load_in_8bit
    if quantised and not (new or is_adapter(model_args.model_name_or_path)):
        yield UserError(
            "a quantised model cannot be trained in full",
            got="use_peft: false",
            expected="an adapter",
            fix="use_peft: true",
        )
    if quantised and model_args.dtype == "auto":
        yield UserError(
            "a quantised base needs a compute dtype",
            got="dtype: auto",
            expected="bfloat16, float16 or float32",
            fix="dtype: bfloat16",
        )
    if quantised and new and _changes_base(model_args):
        yield UserError(
            "PiSSA changes the base's weights, and quantised weights cannot change",
            got=f"init_lora_weights: {begin}",
            expected="a base that is not quantised",
            fix="leave init_lora_weights out, or load_in_4bit: false",
        )
    if begin is not None and not re.fullmatch(r"gaussian|orthogonal|pissa(_niter_[1-9]\d*)?", begin):
        yield UserError(
            "init_lora_weights has an unknown value",
            got=begin,
            expected="gaussian, orthogonal, pissa or pissa_niter_N",
            fix="leave it out for LoRA's default, whose B starts at 0",
        )
    if _changes_base(model_args) and new and STAGES[method].has_reference:
        yield UserError(
            "PiSSA changes the base, which is the reference in this stage",
            got=f"init_lora_weights: {begin}",
            expected="a base that does not change",
            fix=f"use PiSSA in the sft stage, and let {method} continue with its adapter",
        )
    if model_args.loraplus_lr_ratio is not None and STAGES[method].has_critic:
        yield UserError(
            f"loraplus_lr_ratio has no effect in the {method} stage, whose optimizer has a rate for the critic",
            got=model_args.loraplus_lr_ratio,
            fix="leave it out",
        )


def _changes_base(model_args: ModelArguments) -> bool:
    return (model_args.init_lora_weights or "").startswith("pissa")


def starting_point(
    model_args: ModelArguments,
    options: dict,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    stage_dir: Path,
    rows: int = 0,
) -> Start:
    """Load the model that a stage trains; if its parent is an adapter, `adapter_mode` says how.

    Args:
        options: keyword arguments for `from_pretrained`.
        kind: causal-lm or sequence-classification.
        stage_dir: the folder that a merged base is written to.
        rows: least number of rows of the embeddings.
    """
    parent = model_args.model_name_or_path
    if not is_adapter(parent):
        model = load_trainable(parent, kind, **options)
        grown = make_room(model, rows)
        if grown:
            logger.info("the model's embeddings grow from %d to %d rows for the new tokens", grown.start, grown.stop)
        require_rows(model, tokenizer, parent)
        return Start(model, new_adapter(model, model_args, tokenizer, kind, grown))
    if model_args.adapter_mode == "merge":
        base = merge_once(parent, stage_dir / "base", options)
        logger.info("the parent is an adapter: merged into its base (%s), on which a new adapter is trained", base)
        model = load_trainable(str(base), kind, **options)
        return Start(model, new_adapter(model, model_args, tokenizer, kind))
    if model_args.adapter_mode == "stack":
        logger.info("the parent is an adapter: frozen, with a new adapter on top")
        model = load_stack(parent, kind, **options)
        config = new_adapter(model, model_args, tokenizer, kind)
        assert config is not None  # check_adapter requires use_peft
        config.trainable_token_indices = None  # trained by the adapters below, and PEFT saves one such adapter
        reference = frozen_copy(model)
        put_on_top(model, config)
        return Start(model, reference=reference)
    logger.info("the parent is an adapter: trained further, on its own base")
    model = load_trainable(parent, kind, **options)
    # A reference adapter, as TRL and PPOTrainer make it, would lack the adapters below.
    return Start(model, reference=frozen_copy(model) if len(model.active_adapters) > 1 else None)


def new_adapter(
    model: PreTrainedModel,
    model_args: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    grown: Sequence[int] = (),
) -> LoraConfig | None:
    """Return the config of the adapter to add; None without use_peft.

    Args:
        kind: causal-lm or sequence-classification.
        grown: new rows of the embeddings, which only the adapter will hold.
    """
    if not model_args.use_peft:
        return None
    tokens = sorted({*template_token_ids(tokenizer), *grown})
    return lora_config(model, model_args, kind, tokens)


@contextmanager
def adapter_in_32_bit(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Keep an adapter on a quantised base in 32 bit while a TRL trainer is made.

    TRL rounds it to bfloat16: steps of the size of DPO's (2e-5) are then lost on most of LoRA's weights, and an adapter
    that a stage continues with would differ from its reference.
    """
    quantised = quantization_of(model) is not None
    before = {id(one): one.data for one in model.parameters() if one.requires_grad} if quantised else {}
    yield
    if quantised:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = before.get(id(parameter), parameter.data.float())


def adapt_trainer(trainer: Trainer, model_args: ModelArguments) -> None:
    """Apply the keys of LoRA+ (learning rates) and PiSSA (a copy of the initial adapter) to a trainer."""
    if not isinstance(trainer.model, PeftModel):
        return
    if model_args.loraplus_lr_ratio is not None:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(trainer.args)
        # PEFT's default rate for embeddings, 1e-6, would hardly train the rows of the turn markers.
        options |= {"loraplus_lr_ratio": model_args.loraplus_lr_ratio, "loraplus_lr_embedding": options["lr"]}
        options |= {"weight_decay": trainer.args.weight_decay}
        trainer.optimizer = create_loraplus_optimizer(trainer.model, kind, **options)
    # A PiSSA adapter is converted by its difference from its initial weights.
    config = trainer.model.peft_config[trainer.model.active_adapter]
    if str(config.init_lora_weights).startswith("pissa"):
        begin, config.init_lora_weights = config.init_lora_weights, True  # as PEFT's guide to PiSSA has it
        trainer.model.save_pretrained(Path(trainer.args.output_dir) / INITIAL_ADAPTER)
        config.init_lora_weights = begin


def expose_head_bias(model: PreTrainedModel | PeftModel) -> None:
    """Give an output layer with trainable tokens a `bias` of None.

    TRL reads `weight` and `bias` of the output layer. PEFT's wrapper around tied embeddings with trainable tokens gives
    the merged weight, but raises for the bias, which no tied embedding has.
    """
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.register_parameter("bias", None)


def complete_reference(model: PreTrainedModel | PeftModel) -> None:
    """Copy the trained tokens of a policy's adapter into TRL's reference adapter, which has LoRA's matrices alone.

    If training continues an adapter, TRL copies the parameters whose names contain `.default.` into an adapter `ref`;
    the names of trained tokens end in `default`, so that the reference would be another model than the policy.
    """
    if isinstance(model, PeftModel) and REFERENCE_ADAPTER in model.peft_config:
        copy_adapter(model, model.active_adapter, REFERENCE_ADAPTER)


def template_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the special tokens that the chat template writes.

    A base model has never seen them: their embeddings are noise, which low-rank updates of the other layers cannot
    correct (peft#334), so their rows are trained with the adapter.
    """
    if not tokenizer.chat_template:
        return []
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = apply_template(tokenizer, messages, return_dict=True)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return sorted(special.intersection(ids))
