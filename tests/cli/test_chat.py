"""Chatting with a checkpoint: history and its limits, streaming, and checkpoints without a chat template."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignment.cli.inspect.chat import Chat, converse, settings_lines
from alignment.errors import UserError
from alignment.models.gpt import GPTConfig, GPTForCausalLM

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} end {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
WORDS = ["user", "assistant", "end", "hello", "you", "a", "b", "c", "[UNK]"]
CONTEXT = 24


@pytest.fixture
def make_chat():
    """A chat with a model of random weights whose vocabulary is WORDS."""

    def make(template=TEMPLATE, max_new_tokens=4, temperature=0.0):
        core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[UNK]")
        tokenizer.chat_template = template
        torch.manual_seed(0)
        config = GPTConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=None, pad_token_id=8,
        )  # fmt: skip
        return Chat(GPTForCausalLM(config).eval(), tokenizer, temperature, max_new_tokens)

    return make


def typed(monkeypatch, *lines):
    remaining = list(lines)

    def read(prompt=""):
        if not remaining:
            raise EOFError
        return remaining.pop(0)

    monkeypatch.setattr("builtins.input", read)


def test_the_history_grows_and_the_reply_is_printed(make_chat, capsys):
    chat = make_chat()
    reply = chat.answer("hello you")
    assert capsys.readouterr().out.split() == reply.split()
    assert chat.messages == [{"role": "user", "content": "hello you"}, {"role": "assistant", "content": reply}]
    prompt = chat.tokenizer.decode(chat.encode("")["input_ids"][0])
    assert prompt.startswith(f"user hello you end assistant {reply} end")


def test_reset_quit_and_the_end_of_input(make_chat, monkeypatch, capsys):
    chat = make_chat()
    typed(monkeypatch, "hello", "", "/reset", "you")
    converse(chat)
    assert [message["content"] for message in chat.messages if message["role"] == "user"] == ["you"]
    assert "(a new conversation)" in capsys.readouterr().out
    typed(monkeypatch, "/quit", "hello")
    converse(chat)
    assert len(chat.messages) == 2


def test_the_oldest_turn_is_dropped_when_the_context_is_full(make_chat, capsys):
    chat = make_chat()
    for line in ("a", "b", "c"):
        chat.answer(line)
    assert "oldest turn" in capsys.readouterr().out
    assert [message["content"] for message in chat.messages if message["role"] == "user"] == ["b", "c"]


def test_a_line_longer_than_the_context_is_refused_and_not_kept(make_chat, monkeypatch, capsys):
    chat = make_chat()
    with pytest.raises(UserError, match="longer than the model's context"):
        chat.answer("a " * CONTEXT)
    typed(monkeypatch, "a " * CONTEXT, "b")
    converse(chat)
    assert "shorten it" in capsys.readouterr().out
    assert [message["content"] for message in chat.messages][:1] == ["b"]


def test_without_a_template_text_is_completed(make_chat):
    chat = make_chat(template=None)
    chat.answer("a")
    chat.answer("hello you")
    assert chat.tokenizer.decode(chat.encode("hello you")["input_ids"][0]) == "hello you"
    assert len(chat.messages) == 2


def test_the_seed_determines_sampled_replies(make_chat):
    replies = []
    for seed in (1, 1, 2, 3):
        chat = make_chat(temperature=5.0, max_new_tokens=12)
        torch.manual_seed(seed)
        replies.append(chat.answer("hello"))
    assert replies[0] == replies[1]
    assert len(set(replies)) > 1


LEAKY = {
    "repetition_penalty": 5.0,
    "top_k": 1,
    "top_p": 0.1,
    "min_new_tokens": 3,
    "suppress_tokens": [3, 4],
    "num_beams": 2,
}


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_a_generation_config_changes_replies_only_when_it_is_asked_for(make_chat, temperature):
    replies = {}
    for name, settings in {"plain": {}, "ignored": LEAKY, "recommended": LEAKY}.items():
        chat = make_chat(temperature=temperature, max_new_tokens=12)
        vars(chat.model.generation_config).update(settings)
        chat.recommended = name == "recommended"
        torch.manual_seed(1)
        replies[name] = chat.answer("hello")
        assert chat.model.generation_config.repetition_penalty == settings.get("repetition_penalty")
    assert replies["plain"] == replies["ignored"] != replies["recommended"]


def test_sampling_is_from_all_tokens_unless_the_command_says_otherwise(make_chat):
    """transformers samples from the 50 likeliest tokens if top_k is not set."""
    chat = make_chat(temperature=0.5)
    assert chat.sampling()["top_k"] == 0
    chat.recommended, chat.model.generation_config.top_k = True, 7
    assert "top_k" not in chat.sampling() and chat.sampling()["temperature"] == 0.5


def test_settings_of_the_checkpoint_are_shown():
    assert settings_lines({}, False) == settings_lines({"num_beams": 4}, True) == []
    [unused], [used] = (settings_lines({"repetition_penalty": 5.0, "top_k": 1}, on) for on in (False, True))
    assert "repetition_penalty=5.0, top_k=1: not used" in unused and "--recommended" in unused
    assert used.endswith("repetition_penalty=5.0, top_k=1: used")
