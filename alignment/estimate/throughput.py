"""Measure training on this machine: tokens per second, model FLOP utilisation, and the parts of a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedConfig, TrainingArguments, default_data_collator, set_seed

from alignment.callbacks.clock import StageClock
from alignment.callbacks.step_timer import StepTimer
from alignment.estimate.peak_flops import palm_flops, peak_flops
from alignment.estimate.shape import shape_of
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.recipes.overrides import apply_overrides, parse_overrides
from alignment.pipeline.recovery import seed_everything
from alignment.pipeline.stage_spec import StageSpec
from alignment.stages import STAGES
from alignment.stages.pretrain import PretrainRecipe
from alignment.stages.shared.parameters import count_parameters
from alignment.trainers.pretrain.trainer import PretrainTrainer

if TYPE_CHECKING:
    from collections.abc import Sequence

# Switches off what a bench does not measure.
BARE: dict[str, object] = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "push_to_hub": False,
}
# Pretraining sees no document twice, so that dropout does not help.
NO_DROPOUT = dict.fromkeys(("attention_dropout", "hidden_dropout", "embedding_dropout"), 0.0)


@dataclass(frozen=True)
class Throughput:
    """Measurements of a bench.

    Attributes:
        tokens_per_step: trained on per optimizer step, without padding.
        step_seconds: mean of undisturbed steps.
        first_seconds: of the first step, in which kernels are chosen or compiled.
        split: part of a step -> seconds, measured separately, with a synchronisation of the device after each part.
        model_flops: of training per token (`palm_flops`); None in stages that do more than train on their tokens.
        peak_flops: of the device in `dtype`; `peak_source` says how it is known.
        peak_memory_gb: allocated on the GPU, else the resident size of this process.
    """

    name: str
    device: str
    dtype: str
    parameters: int
    trainable: int
    steps: int
    tokens_per_step: float
    step_seconds: float
    first_seconds: float
    split: dict[str, float]
    model_flops: float | None
    peak_flops: float
    peak_source: str
    peak_memory_gb: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / self.step_seconds

    @property
    def utilisation(self) -> float | None:
        """Model FLOP utilisation: model FLOPs per second as a share of the device's peak."""
        return None if self.model_flops is None else self.tokens_per_second * self.model_flops / self.peak_flops


@dataclass
class Preset:
    """A model to bench: fields of GPTConfig, including `preset`."""

    model_config: dict


def bench_preset(preset: str, overrides: Sequence[str], timer: StepTimer) -> Throughput:
    """Pretrain a preset on random tokens; overrides are keys of a pretrain recipe."""
    recipe = apply_overrides({"model_config": {"preset": preset} | NO_DROPOUT, "learning_rate": 1e-4}, overrides)
    with TemporaryDirectory() as folder:
        recipe |= BARE | {"max_steps": timer.max_steps, "output_dir": folder}
        shape, args = build_configs((Preset, PretrainRecipe), recipe, f"align bench {preset}")
        set_seed(args.seed)
        fields = dict(shape.model_config)
        config = GPTConfig.from_preset(fields.pop("preset"), **fields)
        clock = StageClock()
        trainer = PretrainTrainer(
            model=GPTForCausalLM(config),
            args=args,
            train_dataset=random_rows(config, args),
            data_collator=default_data_collator,
            callbacks=[timer],
        )
        trainer.train()
    tokens, counted = trainer.state.num_input_tokens_seen, count_parameters(trainer.model)
    return _throughput(f"preset {preset}", "pretrain", args, timer, tokens, counted, clock.peak_memory_gb)


def random_rows(config: GPTConfig, args: PretrainRecipe) -> list[dict[str, torch.Tensor]]:
    """Rows for one optimizer step: of four documents each, or windows if the recipe sets `window_stride`."""
    length = args.max_length or config.max_position_embeddings
    count = args.train_batch_size * args.gradient_accumulation_steps
    generator = torch.Generator().manual_seed(args.seed)
    ids = torch.randint(config.vocab_size, (count, length + 1), generator=generator)
    if args.window_stride is not None:
        return [{"input_ids": row[:-1], "labels": row[:-1], "shift_labels": row[1:]} for row in ids]
    positions = torch.arange(length) % -(-length // 4)
    return [{"input_ids": row[:-1], "labels": row[:-1], "position_ids": positions} for row in ids]


def bench_stage(spec: StageSpec, run_dir: Path, timer: StepTimer) -> Throughput:
    """Run a stage on its data and parents for the timer's number of steps; no file is kept."""
    with TemporaryDirectory() as folder:
        configs = spec.configs(run_dir)
        (args,) = [config for config in configs if isinstance(config, TrainingArguments)]
        args.output_dir = str(Path(folder) / spec.name)
        seed_everything(spec)
        result = spec.module.run(*configs, callbacks=[timer])
    counted = result.trainable_parameters, result.total_parameters
    name = f"{spec.recipe_path} ({spec.method})"
    return _throughput(name, spec.method, args, timer, result.tokens, counted, result.peak_memory_gb)


def bare_overrides(overrides: Sequence[str], timer: StepTimer, rows: int) -> list[str]:
    """Overrides that switch off everything but training, on at most `rows` rows.

    Args:
        rows: to prepare of the data set; a run that needs more repeats them.
    """
    wanted = BARE | {"max_steps": timer.max_steps, "max_train_samples": rows, "max_eval_samples": 8}
    flags = [str(part) for key, value in wanted.items() for part in (f"--{key}", str(value).lower())]
    given = {f"--{key}" for key in parse_overrides(overrides)}
    pairs = zip(flags[::2], flags[1::2], strict=True)
    return [*overrides, *(part for pair in pairs if pair[0] not in given or pair[0] == "--max_steps" for part in pair)]


def _throughput(
    name: str,
    method: str,
    args: TrainingArguments,
    timer: StepTimer,
    tokens: float,
    counted: tuple[int, int],
    peak_memory_gb: float,
) -> Throughput:
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    peak, source = peak_flops(args.device, dtype)
    per_step = tokens / timer.max_steps
    model_flops = None
    if not STAGES[method].has_reference:  # a stage that does nothing but train on the tokens of its rows
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        sequences = rows * STAGES[method].sequences
        model_flops = _model_flops(timer.config, counted, per_step / sequences)
    on_gpu = args.device.type == "cuda"
    return Throughput(
        name=name,
        device=torch.cuda.get_device_name(args.device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        dtype=str(dtype).removeprefix("torch."),
        parameters=counted[1],
        trainable=counted[0],
        steps=timer.steps,
        tokens_per_step=per_step,
        step_seconds=timer.step_seconds,
        first_seconds=timer.first_seconds,
        split=timer.split,
        model_flops=model_flops,
        peak_flops=peak,
        peak_source=source,
        peak_memory_gb=peak_memory_gb,
    )


def _model_flops(config: PreTrainedConfig, counted: tuple[int, int], length: float) -> float:
    return palm_flops(shape_of(config), length, frozen=counted[0] < counted[1])


def describe(found: Throughput) -> str:
    """Measurements as a table."""
    learns = "" if found.trainable == found.parameters else f", {found.trainable:,} of them trained"
    lines = [
        f"{found.name} on {found.device}, {found.dtype}",
        f"  {'parameters':24}{found.parameters:,}{learns}",
        f"  {'tokens per step':24}{found.tokens_per_step:,.0f}",
        f"  {'tokens per second':24}{found.tokens_per_second:,.0f}",
    ]
    if found.utilisation is not None:
        peak = f"of {found.peak_flops / 1e12:.3g} TFLOP/s ({found.peak_source})"
        lines.append(f"  {'model FLOP utilisation':24}{found.utilisation:.1%} {peak}")
    lines += [
        f"  {'peak memory':24}{found.peak_memory_gb:.2f} GB",
        f"  {'step':24}{1e3 * found.step_seconds:.1f} ms, mean of {found.steps}; the first {found.first_seconds:.1f} s",
    ]
    whole = sum(found.split.values())
    return "\n".join(
        [*lines, *(f"    {part:22}{1e3 * took:.1f} ms, {took / whole:.0%}" for part, took in found.split.items())]
    )
