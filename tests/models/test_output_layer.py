"""The output layer's hidden states in one piece, wherever logits of the last tokens alone are asked for."""

import ppo_tiny as tiny
import pytest
import torch
from peft import get_peft_model

from alignment.trainers.ppo.models import completion_logits
from alignment.trainers.ppo.rollout import sample
from eval.harness.lm import CausalLM


@pytest.mark.parametrize("adapter", [False, True])
def test_no_product_is_made_of_a_slice(adapter, monkeypatch):
    model = tiny.model().eval()
    if adapter:
        model = get_peft_model(model, tiny.lora(trainable_token_indices=[tiny.TURN]))
    head, seen = model.get_output_embeddings(), []
    head.register_forward_hook(lambda layer, arguments, output: seen.append(arguments[0].is_contiguous()))
    prompts = [[5, 6, 7], [8, 9]]
    model(torch.tensor([[5, 6, 7], [8, 9, 4]]), logits_to_keep=1)
    assert seen.pop() is False  # what transformers does by itself
    sampling = {"max_completion_length": 3, "temperature": 1.0, "eos_token_ids": [tiny.EOS], "pad_token_id": tiny.PAD}
    sample(model, prompts, **sampling)
    mask = torch.ones(2, 3, dtype=torch.long)
    batch = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 4]]), "attention_mask": mask, "completion_mask": mask[:, 1:]}
    completion_logits(model, batch, 1.0)
    CausalLM(model, tiny.tokenizer(), 2).reply(prompts, {"until": [], "max_gen_toks": 3, "do_sample": False})
    assert len(seen) >= 3 and all(seen)
    assert len(head._forward_pre_hooks) == 0
