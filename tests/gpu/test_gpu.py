"""What holds on a GPU too: `ALIGNMENT_TEST_GPU=1 pytest tests/gpu`. All other tests are of the CPU."""

import ppo_tiny as tiny
import pytest
import torch
from packed_equality import gradients, largest_difference

from alignment.models.gpt import GPTConfig, GPTForCausalLM

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and ALIGNMENT_TEST_GPU=1")

SMALL = {"num_hidden_layers": 2, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2, "attention_dropout": 0.0}
SMALL |= {"hidden_dropout": 0.0, "embedding_dropout": 0.0, "hidden_size": 128, "num_attention_heads": 4}
BACKENDS = [("gpt2", "sdpa"), ("modern-tiny", "eager"), ("modern-tiny", "sdpa"), ("modern-tiny", "flex_attention")]


def on(device: str, preset: str, backend: str, inputs: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = GPTForCausalLM(GPTConfig.from_preset(preset, **SMALL)).train()
    model.set_attn_implementation(backend)
    model.to(device)
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    output = model(**moved, labels=moved["input_ids"], use_cache=False)
    found = gradients(model, output.loss)
    return output.logits.detach().cpu(), {name: gradient.cpu() for name, gradient in found.items()}


@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize(("preset", "backend"), [*BACKENDS, ("moe-tiny", "sdpa")])
def test_logits_and_gradients_are_the_cpus(preset, backend, packed):
    ids = torch.randint(3, 512, (2, 128), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids}
    if packed:
        inputs["position_ids"] = torch.cat([torch.arange(50), torch.arange(78)]).expand(2, -1)
    logits, expected = on("cpu", preset, "sdpa", inputs)
    found, other = on("cuda", preset, backend, inputs)
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    assert largest_difference(other, expected) < 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("sampler", ["generate", "continuous_batching"])
@pytest.mark.parametrize("mode", tiny.CRITICS)
def test_ppo_starts_at_its_reference_in_bf16(mode, sampler, checkpointing, tmp_path):
    options = {name: make() for name, make in tiny.CRITICS[mode].items()}
    arguments = {"critic_mode": mode, "sampler": sampler, "activation_checkpointing": checkpointing}
    run = tiny.trainer(tmp_path, arguments=arguments | {"use_cpu": False, "bf16": True}, **options)
    run.train()
    assert run.model.device.type == "cuda"
    assert tiny.logged(run, "kl/completion")[0] == pytest.approx(0.0, abs=1e-6)
    assert tiny.logged(run, "ratio/max")[0] == pytest.approx(1.0, abs=1e-3)
    assert all(torch.isfinite(torch.tensor(tiny.logged(run, "loss"))))
