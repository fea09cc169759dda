"""Estimates against hand values, real models and trainers, and measured runs."""

import contextlib
import copy

import gpt_tiny
import ppo_tiny
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPTNeoXConfig,
    LlamaConfig,
    default_data_collator,
)
from trl import GRPOConfig, GRPOTrainer

from alignment.estimate import compute, tensor_bytes
from alignment.estimate.compute import Device, this_device
from alignment.estimate.estimate import estimate
from alignment.estimate.shape import shape_of
from alignment.estimate.summary import describe
from alignment.estimate.tensor_bytes import Precision
from alignment.estimate.workload import TokenStatistics
from alignment.models.gpt import GPTConfig
from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.stage_spec import stage_module
from alignment.trainers.pretrain.trainer import PretrainConfig, PretrainTrainer

TINY = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 1536,
    "max_position_embeddings": 256,
}
SIXTY_MILLION = {
    "hidden_size": 640,
    "num_hidden_layers": 8,
    "num_attention_heads": 10,
    "tie_word_embeddings": True,
    "vocab_size": 32000,
    "max_position_embeddings": 512,
}
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    **{name: GPTConfig(**fields) for name, fields in gpt_tiny.FAMILIES.items()},
    "llama": LlamaConfig(**SMALL, num_key_value_heads=2),
    "neox": GPTNeoXConfig(**SMALL),
}
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
MACHINE = Device("a machine", 24 * 10**9, 1e11)


def configs(stage: str, **keys) -> tuple:
    """The stage's dataclasses for a recipe with these keys."""
    needed = {"output_dir": "nowhere", "dataset_name": "tinyworld"}
    needed |= {"tokenizer_name_or_path": "here"} if stage == "pretrain" else {"model_name_or_path": "here"}
    return build_configs(stage_module(stage, "alignment.stages").CONFIGS, needed | keys, "a test")


def of(stage: str, rows: TokenStatistics, config=None, device=MACHINE, **keys):
    options = {key: keys.pop(key) for key in ("adapter", "reward_adapter", "reward_config") if key in keys}
    return estimate(stage, configs(stage, **keys), config or GPTConfig(**TINY), rows, device, **options)


# Models -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_equal_those_of_the_real_model(name):
    config = CONFIGS[name]
    real = AutoModelForCausalLM.from_config(config)
    assert shape_of(config).parameters == sum(one.numel() for one in real.parameters())
    adapted = get_peft_model(real, copy.deepcopy(LORA))  # PEFT writes into what it is given
    found = shape_of(config, LORA)
    assert (found.trainable, found.parameters) == adapted.get_nb_trainable_parameters()


def test_a_classifier_has_a_score_head_instead_of_an_output_layer():
    config = CONFIGS["llama"]
    one_label = LlamaConfig(**SMALL, num_key_value_heads=2, num_labels=1)
    real = AutoModelForSequenceClassification.from_config(one_label)
    found = shape_of(config, kind="sequence-classification")
    assert found.parameters == found.trainable == sum(one.numel() for one in real.parameters())


def test_flops_are_six_per_parameter_plus_attention():
    shape = shape_of(GPTConfig(**TINY))
    matrices = 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384) + 1536 * 128  # layers, output layer
    assert shape.matrix_parameters == matrices + 9 * 128  # and norms
    attention = 4 * 128 * 4 * (256 + 1) / 2
    assert compute.training_flops(shape, 256, False) == 3 * (2 * shape.matrix_parameters + attention)
    assert compute.training_flops(shape, 256, True) == 4 * (2 * shape.matrix_parameters + attention)
    frozen_base = shape_of(GPTConfig(**TINY), LORA)
    assert compute.training_flops(frozen_base, 256, False) == 2 * (2 * shape.matrix_parameters + attention)


# Memory -------------------------------------------------------------------------------------------------------------


def saved_bytes(config, sequences: int, length: int, autocast: bool) -> int:
    """Bytes that autograd keeps of a forward pass, without the weights."""
    model = AutoModelForCausalLM.from_config(config).train()
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept, held = {}, []

    def pack(tensor):
        held.append(tensor)
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        model.base_model(input_ids=torch.zeros(sequences, length, dtype=torch.long), use_cache=False)
    return sum(kept.values())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "modern", "convolved", "llama", "neox"])
def test_activations_equal_what_autograd_keeps(name, autocast):
    sizes = {"hidden_size": 128, "intermediate_size": 512, "max_position_embeddings": 128}
    convolved = gpt_tiny.MODERN | {"qkv_conv_size": 4, "qk_norm": True}
    family = {"gpt2": gpt_tiny.CLASSIC, "modern": gpt_tiny.MODERN, "convolved": convolved}.get(name)
    kind = {"llama": LlamaConfig, "neox": GPTNeoXConfig}.get(name, GPTConfig)
    config = kind(**{**(family or SMALL), **sizes})
    precision = Precision(4, 2 if autocast else 4)
    shape = shape_of(config)
    predicted = tensor_bytes.activation_bytes(shape, precision, 8, 128, checkpointing=False, dense_attention=False)
    real = saved_bytes(config, 8, 128, autocast)
    assert predicted + tensor_bytes.autocast_bytes(shape, precision) == pytest.approx(real, rel=0.15)


def test_weights_gradients_and_moments_by_hand():
    rows = TokenStatistics(100, 50, 60)
    config = GPTConfig(**TINY)
    size = shape_of(config).parameters
    assert size == 984192
    full = of("sft", rows, bf16=False).memory
    assert (full["weights"], full["gradients"], full["optimizer"]) == (4 * size, 4 * size, 8 * size)
    assert of("sft", rows, optim="adamw_torch_8bit").memory["optimizer"] == 2 * size
    assert of("sft", rows, optim="sgd").memory["optimizer"] == 0
    narrow = of("sft", rows, dtype="bfloat16").memory
    assert (narrow["weights"], narrow["optimizer"]) == (2 * size, 4 * size)
    adapted = of("sft", rows, use_peft=True, lora_r=4, lora_target_modules=["q_proj", "v_proj"])
    learned = 4 * 4 * (128 + 128 + 128 + 64) + 128  # layers x rank x (in and out of q, and of v), and a token's row
    assert adapted.trainable == learned
    assert adapted.memory["weights"] == 4 * (size + learned)
    assert adapted.memory["optimizer"] == 8 * learned


def test_a_base_in_4_bit_has_embeddings_norms_and_output_layer_in_16():
    rows = TokenStatistics(100, 50, 60)
    size, inner = 984192, 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384)
    for nested, number in ((True, 0.516), (False, 0.5625)):
        keys = {"use_peft": True, "dtype": "bfloat16", "load_in_4bit": True, "use_bnb_nested_quant": nested}
        predicted = of("sft", rows, **keys)
        assert predicted.memory["weights"] == round(number * inner) + 2 * (size - inner) + 4 * predicted.trainable
        predicted = of("reward", rows, **keys)  # with a score head, and its copy that is trained
        assert predicted.memory["weights"] == round(number * inner) + 2 * (size + 128 - inner) + 4 * predicted.trainable


def test_muons_state_equals_the_optimizers(tmp_path):
    keys = {"muon": True, "max_steps": 1, "bf16": False}
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]], "labels": [[1, 2, 3, 4]]}).with_format("torch")
    args = PretrainConfig(tmp_path, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, **keys)
    config = GPTConfig(**gpt_tiny.MODERN)
    trainer = PretrainTrainer(
        model=AutoModelForCausalLM.from_config(config),
        args=args,
        train_dataset=rows,
        data_collator=default_data_collator,
    )
    trainer.train()
    states = [one for state in trainer.optimizer.state.values() for one in state.values() if one.numel() > 1]
    predicted = of("pretrain", TokenStatistics(1, 4, 4), config, **keys).memory["optimizer"]
    assert predicted == sum(one.numel() * one.element_size() for one in states)
    assert predicted < of("pretrain", TokenStatistics(1, 4, 4), config, **keys | {"muon": False}).memory["optimizer"]


def test_logits_by_hand():
    rows = TokenStatistics(100_000, 200, 256)
    positions = 4 * 256
    shape, fp32, bf16 = shape_of(GPTConfig(**TINY)), Precision(4, 4), Precision(4, 2)
    assert tensor_bytes.whole_logit_bytes(shape, fp32, positions) == positions * 1536 * 12
    assert tensor_bytes.whole_logit_bytes(shape, bf16, positions) == positions * 1536 * 10
    predicted = of("pretrain", rows, per_device_train_batch_size=4, per_device_eval_batch_size=1, bf16=False)
    assert predicted.memory["logits"] == positions * 1536 * 12
    chunked = of("pretrain", rows, per_device_train_batch_size=4, per_device_eval_batch_size=1, loss_chunk_size=64)
    assert chunked.memory["logits"] == 64 * 1536 * 8 + 2 * 1536 * 128 * 4  # and two gradients of the output layer
    # TRL's SFT computes them in tiles: no more than one at a time, however long the batch.
    large = of("sft", rows, per_device_train_batch_size=1000, max_length=256).memory
    assert large["logits"] == 4096 * 1536 * 4 * tensor_bytes.CPU_TILES
    # In 16 bit the gradient is summed over copies of the tile and of the weights in 32 bit.
    narrow = of("sft", rows, per_device_train_batch_size=1000, max_length=256, dtype="bfloat16").memory
    assert narrow["logits"] - large["logits"] == 4 * (4096 * 1536 + 1536 * 128)
    trained = of("sft", rows, use_peft=True, dtype="bfloat16").memory["trained rows of embeddings"]
    assert trained == 1536 * 128 * (2 + 2 + 4)  # a copy of the table, its gradient, and that in 32 bit
    parent = LoraConfig(r=4, target_modules="all-linear", trainable_token_indices=[3])
    classifier = of("reward", rows, adapter=parent, dtype="bfloat16").memory["trained rows of embeddings"]
    assert classifier == 1536 * 128 * (2 + 2)  # which has no output layer


def test_with_checkpointing_a_gpu_holds_the_output_layers_gradients_or_one_layer_whole():
    keys = {"use_peft": True, "lora_dropout": 0.0, "dtype": "bfloat16", "activation_checkpointing": True}
    gpu, table = Device("a card", 80 * 10**9, on_gpu=True), 1536 * 128
    for length, summed in ((8, True), (256, False)):  # at short lengths the table weighs more than a layer's insides
        rows = TokenStatistics(100, length, length)
        batches = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 1}
        found = of("sft", rows, device=gpu, max_length=256, **batches, **keys).memory
        assert found["trained rows of embeddings"] == table * (2 + 2 + 4 * summed)
        assert (found["logits"] > 0) is summed
        inputs = 4 * length * (4 * 2 * 128 + 3 * 4 * 128)  # of four layers, and what the last norm keeps
        layer = tensor_bytes.layer_bytes(
            shape_of(GPTConfig(**TINY), LORA), Precision(2, 2), 4, length, dense_attention=False
        )
        assert found["activations"] == inputs + (0 if summed else layer)


def test_the_models_of_ppo_by_critic_mode():
    rows = TokenStatistics(100, 20, 30)
    keys = {"reward_model_path": "there", "beta": 0.1, "max_completion_length": 16}
    config = GPTConfig(**TINY)
    size = shape_of(config).parameters
    judge = shape_of(config, kind="sequence-classification").parameters
    separate = of("ppo", rows, **keys).memory
    assert separate["reference model"] == 4 * size
    assert separate["reward model"] == 4 * judge
    assert separate["critic"] == 16 * judge
    assert "critic" not in of("ppo", rows, critic_mode="shared_head", **keys).memory
    assert "reference model" not in of("ppo", rows, **{**keys, "beta": 0.0}).memory
    # An adapter that goes on: one base; reference, reward model and critic are adapters on it.
    lora = of("ppo", rows, adapter=LORA, **keys)
    adapter = lora.trainable
    assert adapter == shape_of(config, LORA).trainable
    assert lora.memory["reference model"] == 4 * adapter
    assert lora.memory["critic"] == 16 * adapter
    assert lora.memory["reward model"] < 4 * judge / 5
    # A new adapter: the base itself is the reference.
    assert "reference model" not in of("ppo", rows, use_peft=True, **keys).memory


def test_the_models_of_grpo():
    """No critic; TRL's trainer holds a whole reward model, even if it is an adapter on the policy's base."""
    rows, config = TokenStatistics(100, 20, 30), GPTConfig(**TINY)
    keys = {"reward_model_path": "there", "beta": 0.1, "max_completion_length": 16, "num_generations": 4}
    size, judge = shape_of(config).parameters, shape_of(config, kind="sequence-classification").parameters
    full = of("grpo", rows, **keys).memory
    assert (full["reference model"], full["reward model"]) == (4 * size, 4 * judge) and "critic" not in full
    assert "reference model" not in of("grpo", rows, **{**keys, "beta": 0.0}).memory
    lora = of("grpo", rows, adapter=LORA, **keys)
    assert lora.memory["reference model"] == 4 * lora.trainable
    assert lora.memory["reward model"] >= 4 * judge
    large = {**keys, "per_device_train_batch_size": 4, "steps_per_generation": 4096, "max_completion_length": 200}
    assert "KV cache" in of("grpo", rows, **large).memory  # a whole rollout is sampled at once


def test_dpo_counts_its_reference():
    rows = TokenStatistics(100, 20, 30)
    assert of("dpo", rows).memory["reference model"] == 4 * 984192
    assert "reference model" not in of("dpo", rows, use_peft=True).memory
    assert "reference model" not in of("sft", rows).memory


# What recipes/tiny took on two cores, and 60 M parameters on one (2026-11-22): stage, config, recipe keys, rows,
# gigabytes at the peak.
MEASURED = [
    ("pretrain", TINY, {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 32}, (60000, 50.1, 200), 0.938),
    ("sft", TINY, {"per_device_train_batch_size": 32, "max_length": 256}, (9000, 35.4, 256), 1.325),
    ("reward", TINY, {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 64}, (6000, 23, 70), 0.925),
    ("dpo", TINY, {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 64}, (4000, 24, 70), 1.144),
    (
        "ppo",
        TINY,
        {
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 128,
            "steps_per_generation": 4,
            "max_completion_length": 48,
            "reward_model_path": "there",
        },
        (6000, 13, 60),
        1.087,
    ),
    ("sft", SIXTY_MILLION, {"per_device_train_batch_size": 8}, (64, 152, 175), 3.560),
    ("dpo", SIXTY_MILLION, {"per_device_train_batch_size": 4}, (64, 152, 171), 3.711),
    ("reward", SIXTY_MILLION, {"per_device_train_batch_size": 4}, (64, 152, 171), 2.170),
    (
        "ppo",
        SIXTY_MILLION,
        {
            "per_device_train_batch_size": 8,
            "steps_per_generation": 2,
            "max_completion_length": 48,
            "reward_model_path": "there",
        },
        (64, 63, 72),
        3.908,
    ),
    ("sft", SIXTY_MILLION, {"per_device_train_batch_size": 8, "use_peft": True, "lora_r": 8}, (64, 152, 175), 4.064),
]


@pytest.mark.parametrize(("stage", "config", "keys", "rows", "gigabytes"), MEASURED)
def test_memory_is_close_to_measurements(stage, config, keys, rows, gigabytes):
    keys = {"bf16": False, "activation_checkpointing": False, **keys}
    predicted = of(stage, TokenStatistics(*rows), GPTConfig(**config), **keys)
    assert predicted.total_memory / 1e9 == pytest.approx(gigabytes, rel=0.3)


# Steps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_train_epochs": 2},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_train_epochs": 1.5},
        {"per_device_train_batch_size": 8, "dataloader_drop_last": True, "num_train_epochs": 2},
        {"per_device_train_batch_size": 4, "max_steps": 7},
    ],
)
def test_steps_and_tokens_equal_the_trainers(keys, tmp_path):
    """Packed rows through the pretrain stage's trainer: 21 rows of 16 tokens, full."""
    keys = {"num_train_epochs": 1, "bf16": False, **keys}
    ids = torch.arange(21 * 16).reshape(21, 16) % 60
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()}).with_format("torch")
    args = PretrainConfig(tmp_path, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, **keys)
    model = AutoModelForCausalLM.from_config(GPTConfig(**gpt_tiny.MODERN))
    trainer = PretrainTrainer(model=model, args=args, train_dataset=rows, data_collator=default_data_collator)
    trainer.train()
    predicted = of("pretrain", TokenStatistics(42, 8, 12), max_length=16, **keys)
    assert predicted.steps == trainer.state.global_step
    assert predicted.batch_sequences == args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert predicted.batch_tokens == predicted.batch_sequences * 16
    assert predicted.tokens == pytest.approx(trainer.state.num_input_tokens_seen, rel=0.1)


def test_packed_conversations_make_fewer_steps():
    rows = TokenStatistics(1000, 100, 400)
    keys = {"max_length": 512, "per_device_train_batch_size": 4, "num_train_epochs": 1}
    assert of("sft", rows, **keys).steps == 250
    assert of("sft", rows, packing=True, **keys).steps == 49  # 100,000 tokens in 196 rows of 512
    assert of("sft", rows, replay_dataset_name="tinyworld:pretrain", replay_ratio=0.5, **keys).steps == 375


def test_pairs_count_both_sides():
    predicted = of("dpo", TokenStatistics(100, 20, 30), per_device_train_batch_size=5, num_train_epochs=1)
    assert (predicted.steps, predicted.batch_sequences, predicted.tokens) == (20, 10, 4000)


@pytest.mark.parametrize("steps_per_generation, iterations, accumulation", [(2, 1, 1), (4, 2, 2), (2, 3, 2)])
def test_ppo_steps_equal_its_trainers(steps_per_generation, iterations, accumulation, tmp_path):
    keys = {
        "per_device_train_batch_size": 2,
        "steps_per_generation": steps_per_generation,
        "num_iterations": iterations,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": 2,
        "max_completion_length": 4,
    }
    args = ppo_tiny.PPOConfig(
        tmp_path, report_to=[], save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, **keys
    )
    trainer = ppo_tiny.PPOTrainer(
        ppo_tiny.model(),
        reward_funcs=lambda completions, **_: [float(len(one)) for one in completions],
        args=args,
        train_dataset=ppo_tiny.prompts(10).select_columns(["prompt"]),
        processing_class=ppo_tiny.tokenizer(),
    )
    trainer.train()
    predicted = of("ppo", TokenStatistics(10, 3, 4), reward_funcs=["reward_models.tinyworld:gold_reward"], **keys)
    assert predicted.steps == trainer.state.global_step
    assert predicted.batch_sequences == 2 * accumulation


@pytest.mark.parametrize("steps_per_generation, iterations, accumulation", [(2, 1, 1), (4, 2, 2), (1, 1, 4)])
def test_grpo_steps_equal_its_trainers(steps_per_generation, iterations, accumulation, tmp_path):
    """10 prompts, of which some do not fill a rollout."""
    keys = {
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "steps_per_generation": steps_per_generation,
        "num_iterations": iterations,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": 2,
        "max_completion_length": 4,
    }
    args = GRPOConfig(tmp_path, report_to=[], save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, **keys)
    trainer = GRPOTrainer(
        ppo_tiny.model(),
        reward_funcs=lambda completions, **_: [float(len(one)) for one in completions],
        args=args,
        train_dataset=ppo_tiny.prompts(10).select_columns(["prompt"]),
        processing_class=ppo_tiny.tokenizer(),
    )
    trainer.train()
    predicted = of("grpo", TokenStatistics(10, 3, 4), reward_funcs=["reward_models.tinyworld:gold_reward"], **keys)
    assert predicted.steps == trainer.state.global_step
    assert predicted.batch_sequences == 4 * accumulation


# Words --------------------------------------------------------------------------------------------------------------


def test_a_stage_that_does_not_fit_comes_with_fixes():
    rows = TokenStatistics(10_000, 200, 256)
    keys = {"per_device_train_batch_size": 512, "max_length": 256, "bf16": False, "num_train_epochs": 1}
    small = Device("a small machine", 3 * 10**9)
    predicted = of("sft", rows, device=small, **keys)
    assert predicted.verdict == "does not fit"
    assert of("sft", rows, device=Device("a large one", 10**11), **keys).fixes == []
    first = dict(part.split(": ") for part in predicted.fixes[0].split(", "))
    batch = int(first["per_device_train_batch_size"]) * int(first["gradient_accumulation_steps"])
    assert batch == 512  # the optimizer's batch stays
    mended = {key: int(value) for key, value in first.items()}
    assert of("sft", rows, device=small, **{**keys, **mended}).verdict == "fits"
    assert any("activation_checkpointing: true" in fix for fix in predicted.fixes)
    assert any("use_peft" in fix for fix in predicted.fixes)
    assert "does not fit" in describe(predicted) and predicted.fixes[0] in describe(predicted)


def test_tight_lies_between_fits_and_does_not_fit():
    rows = TokenStatistics(100, 20, 30)
    total = of("sft", rows).total_memory
    assert of("sft", rows, device=Device("", round(total / 0.9))).verdict == "tight"
    assert of("sft", rows, device=Device("", round(total / 0.7))).verdict == "fits"


def test_describe_is_short():
    predicted = of(
        "sft", TokenStatistics(1000, 50, 60), use_peft=True, num_train_epochs=1, per_device_train_batch_size=10
    )
    lines = describe(predicted).splitlines()
    assert len(lines) == 6
    assert "trained" in lines[0] and "100 of 10 sequences, about 500 tokens" in lines[1]
    assert "libraries (torch, transformers, ...) 0.7" in lines[-1]  # what the process takes without a model
    assert "time" not in describe(of("sft", TokenStatistics(10, 5, 6), device=Device("no speed", 10**10)))


def test_more_work_takes_longer():
    rows = TokenStatistics(1000, 50, 60)
    once = of("sft", rows, num_train_epochs=1).seconds
    assert of("sft", rows, num_train_epochs=4).seconds > 2 * once - compute.START
    slow = Device("slow", 10**10, 1e9)
    assert of("sft", rows, num_train_epochs=1, device=slow).seconds > 10 * once


def test_this_device_is_measured():
    found = this_device()
    assert found.flops > 1e8 and found.memory > 10**8 and found.name
    threads = torch.get_num_threads()
    assert this_device(measure=False).flops is None
    assert torch.get_num_threads() == threads


def test_no_weights_are_allocated_for_a_large_model():
    """175 billion parameters are counted, which this machine could not hold."""
    assert shape_of(GPTConfig.from_preset("gpt3-175b")).parameters == pytest.approx(175e9, rel=0.01)


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    rows, device = TokenStatistics(1000, 200, 256), Device("a small machine", 3 * 10**9)
    largest = of("sft", rows, device=device).largest_batch
    assert 1 < largest < 1024
    assert of("sft", rows, device=device, per_device_train_batch_size=largest).verdict == "fits"
    assert of("sft", rows, device=device, per_device_train_batch_size=largest + 1).verdict != "fits"
    assert f"up to {largest}" in describe(of("sft", rows, device=device))
