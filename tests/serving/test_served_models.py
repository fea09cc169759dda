"""Models by name, and adapters that share their base."""

import asyncio
import itertools

import pytest
import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from saved_adapters import save_adapter
from served_tiny import chat_tokenizer, client_of, engine_of, save_gpt, serving

from alignment.errors import UserError, UserErrors
from alignment.models.generation import end_token_ids
from alignment.models.loading import load_causal_lm
from alignment.serving.batching.served_models import Named, load_models, read_names


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base and adapters: plain, with trained token rows, on an earlier one, with a layer of their own."""
    folder, tokenizer = tmp_path_factory.mktemp("adapters"), chat_tokenizer()
    base = save_gpt(folder / "base/checkpoint")
    rows = [tokenizer.convert_tokens_to_ids("<|im_start|>"), 7]
    save_adapter(base, tokenizer, folder / "plain")
    save_adapter(base, tokenizer, folder / "rows", trainable_token_indices=rows)
    save_adapter(base, tokenizer, folder / "stacked", earlier={"r": 2})
    return {one.name: one for one in folder.iterdir()} | {"base": base}


def storages(models) -> int:
    """The bytes of all tensors of models, each once."""
    found = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in models
        for tensor in itertools.chain(model.parameters(), model.buffers())
    }
    return sum(found.values())


def loaded(folders, *names):
    return load_models([Named(name, str(folders[name])) for name in names], "cpu")


def test_a_base_is_held_once(folders):
    base, plain, stacked = (one.model for one in loaded(folders, "base", "plain", "stacked"))
    adapter = sum(p.nbytes for name, p in plain.named_parameters() if "lora_" in name)
    earlier = sum(p.nbytes for name, p in stacked.named_parameters() if "lora_" in name)
    assert 0 < adapter < earlier
    assert storages([base, plain, stacked]) == storages([base]) + adapter + earlier
    assert not any(p.requires_grad for p in plain.parameters())


def test_only_the_tables_are_copied_for_trained_token_rows(folders):
    base, rows = (one.model for one in loaded(folders, "base", "rows"))
    own = storages([base, rows]) - storages([base])
    tables = 2 * base.get_input_embeddings().weight.nbytes  # input and output layer
    assert tables <= own < tables + storages([base]) / 3
    merged = [module.merged for module in rows.modules() if isinstance(module, TrainableTokensLayer)]
    assert merged and all(merged)  # otherwise each forward pass copies the tables


def test_adapters_served_at_once_equal_each_alone(folders):
    """Base and adapters in turn and at once: each reply is that of `generate` on the checkpoint by itself."""
    names = ["base", "plain", "rows", "stacked"]
    served = loaded(folders, *names)
    assert [one.base for one in served] == [None, "base", "base", "base"]
    assert len({one.digest for one in served}) == 4
    prompts = [[9, 8, 7, *range(20, 20 + count)] for count in (3, 30)]

    async def ask(url):
        async with client_of(url) as client:
            create, shared = client.completions.create, {"temperature": 0, "max_tokens": 8, "logprobs": 0}
            asks = [create(model=name, prompt=prompt, **shared) for prompt in prompts for name in names]
            return [one.choices[0] for one in await asyncio.gather(*asks)]

    engines = [engine_of(one) for one in served]
    try:
        running = [one.__enter__() for one in engines]
        with serving(running) as server:
            found = asyncio.run(ask(server.url))
    finally:
        for one in engines:
            one.__exit__(None, None, None)
    texts = {}
    for (prompt, name), choice in zip(itertools.product(map(tuple, prompts), names), found, strict=True):
        texts[name, prompt] = choice.text
    for name in names:
        model, tokenizer = load_causal_lm(folders[name])
        for prompt in prompts:
            ids = torch.tensor([prompt])
            ends = end_token_ids(model, tokenizer)
            options = {
                "attention_mask": torch.ones_like(ids),
                "do_sample": False,
                "pad_token_id": 0,
                "eos_token_id": ends,
            }
            with torch.no_grad():
                out = model.generate(ids, max_new_tokens=8, **options)[0, len(prompt) :]
            assert texts[name, tuple(prompt)] == tokenizer.decode(out, skip_special_tokens=True), (name, prompt)
    assert len({texts[name, tuple(prompts[0])] for name in names}) == 4


def test_an_adapter_by_itself_is_merged(folders):
    (alone,) = loaded(folders, "plain")
    assert alone.base is None and not any("lora_" in name for name, _ in alone.model.named_parameters())


def test_adapters_without_the_base_share_it_too(folders):
    first, second = loaded(folders, "plain", "stacked")
    assert (first.base, second.base) == (None, "plain")
    shared = first.model.get_input_embeddings().weight
    assert shared.data_ptr() == second.model.get_input_embeddings().weight.data_ptr()


def test_names(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(folders["plain"])
    given = [str(folders["base"]), "mine=.", "."]
    assert [one.name for one in read_names(given)] == ["base", "mine", "plain"]
    odd = tmp_path / "a=b"
    odd.mkdir()
    (odd / "config.json").write_text("{}")
    (odd / "model.safetensors").write_bytes(b"")
    assert [one.checkpoint for one in read_names([f"x={odd}"])] == [str(odd)]
    assert [one.name for one in read_names(["org/some-model", "own=org/some-model"])] == ["some-model", "own"]


def test_all_wrong_names_are_reported(folders, tmp_path):
    plain = str(folders["plain"])
    with pytest.raises(UserErrors) as caught:
        read_names([plain, f"plain={plain}", f"a/b={plain}", f"={plain}", str(tmp_path / "nowhere")])
    message = str(caught.value)
    assert "several models are called plain" in message and "NAME=CKPT OTHER=CKPT" in message
    assert "a/b" in message and "an empty name" in message and "no checkpoint at" in message
    with pytest.raises(UserError, match="holds no model"):
        read_names([str(tmp_path)])
