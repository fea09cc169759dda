"""Tiny models, a tiny tokenizer and a data set for the PPO tests."""

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    TokenizersBackend,
    TrainerCallback,
)

from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.trainer import PPOTrainer

WORDS = [f"w{index}" for index in range(26)]
PAD, EOS, TURN = 0, 1, 2
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}w0 {% endif %}"
    "{{ message['content'] }} <turn> {% endfor %}"
    "{% if add_generation_prompt %}w0 {% endif %}"
)


def tokenizer() -> TokenizersBackend:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "<turn>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    result = TokenizersBackend(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    result.chat_template = TEMPLATE
    return result


def model(kind: str = "llama", head: str = "lm", seed: int = 0, **overrides):
    """A causal LM or a sequence classifier, with rotary ("llama") or absolute ("gpt2") positions."""
    torch.manual_seed(seed)
    common = {"vocab_size": 30, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
    if head == "score":
        common["num_labels"] = 1
    if kind == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(**common, **sizes, max_position_embeddings=64, **overrides)
        return (LlamaForCausalLM if head == "lm" else LlamaForSequenceClassification)(config)
    config = GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=64, **overrides)
    return (GPT2LMHeadModel if head == "lm" else GPT2ForSequenceClassification)(config)


def moe_policy(coefficient: float, z_coefficient: float = 0.0) -> GPTForCausalLM:
    """A causal LM with experts and the given coefficients of its router losses."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    experts = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    tokens = {"vocab_size": 30, "pad_token_id": PAD, "eos_token_id": EOS}
    coefficients = {"router_aux_loss_coef": coefficient, "router_z_loss_coef": z_coefficient}
    return GPTForCausalLM(GPTConfig(**sizes, **experts, **tokens, **coefficients))


def prompts(count: int = 8) -> Dataset:
    texts = [" ".join(WORDS[index % 7 : index % 7 + 1 + index % 4]) for index in range(count)]
    return Dataset.from_dict({"prompt": texts, "target": list(range(count))})


def texts(count: int = 6) -> Dataset:
    return Dataset.from_dict({"text": [" ".join(WORDS[index : index + 2 + index]) for index in range(count)]})


def config(path, **overrides) -> PPOConfig:
    defaults = {
        "output_dir": str(path),
        "per_device_train_batch_size": 4,
        "max_completion_length": 6,
        "num_iterations": 1,
        "learning_rate": 1e-3,
        "max_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return PPOConfig(**{**defaults, **overrides})


def length_reward(completion_ids, **kwargs) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def trainer(path, *, policy=None, reward_funcs=length_reward, dataset=None, peft_config=None, arguments=None, **kwargs):
    return PPOTrainer(
        model() if policy is None else policy,
        reward_funcs,
        config(path, **(arguments or {})),
        prompts() if dataset is None else dataset,
        processing_class=tokenizer(),
        peft_config=peft_config,
        **kwargs,
    )


def resumed(new, checkpoint) -> tuple[PPOTrainer, PPOTrainer]:
    """An uninterrupted run and a run resumed from its checkpoint; checks that their weights are equal bit for bit."""
    whole = new()
    whole.train()
    again = new()
    again.train(resume_from_checkpoint=str(checkpoint))
    assert same_weights(weights(whole.model), weights(again.model))
    assert same_weights(weights(whole.value_model), weights(again.value_model))
    return whole, again


def logged(run: PPOTrainer, name: str) -> list[float]:
    return [entry[name] for entry in run.state.log_history if name in entry]


def weights(module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lora(**kwargs) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **kwargs)


def sft_adapter(kind: str = "llama") -> PeftModel:
    """A policy with an adapter that changes its outputs."""
    return active(get_peft_model(model(kind), lora()))


def active(adapted: PeftModel) -> PeftModel:
    """Draw the second matrices of an adapter, which are 0 at first."""
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return adapted


def lora_reward_model() -> PeftModel:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    return get_peft_model(model(head="score", seed=3), config)


class Gradients(TrainerCallback):
    """Records the gradients of policy and critic at each optimizer step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        critic = self.trainer.critic.trained()
        own = {id(parameter) for parameter in critic.values()}
        policy = {name: p for name, p in model.named_parameters() if id(p) not in own}
        self.steps.append(
            [{name: p.grad.clone() for name, p in part.items() if p.grad is not None} for part in (policy, critic)]
        )


def gradients(path, **kwargs) -> list:
    """[policy's gradients, critic's gradients] of each optimizer step, before clipping."""
    callback = Gradients()
    arguments = {"max_steps": 1, "max_grad_norm": 1e9, **kwargs.pop("arguments", {})}
    run = trainer(path, arguments=arguments, callbacks=[callback], **kwargs)
    callback.trainer = run
    run.train()
    return callback.steps


# Arguments of the trainer by critic_mode.
CRITICS = {
    "separate": {"reward_funcs": lambda: model(head="score", seed=3)},
    "shared_head": {},
    "lora": {"policy": sft_adapter, "reward_funcs": lora_reward_model},
}
