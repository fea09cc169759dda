"""Conversations of several replies: each is trained as inference shows it, whatever happens to earlier turns."""

from itertools import groupby
from pathlib import Path

import pytest
import trl
from check_cases import CHATML, foreign_tokenizer, some_fast, turn
from shipped_templates import SHIPPED

from alignment.data.tokenizing.encoding import encode_rows, training_template

TRL = {path.stem: path.read_text() for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")}
# Writes the thinking of the last reply only, with markers of its own.
FORGETS = CHATML.replace(
    "{% generation %}{{ message['content'] }}",
    "{% generation %}{% if loop.last %}{{ message['content'] }}{% else %}{{ message['content'].split('</think>')[-1] }}"
    "{% endif %}",
)
ENDS_ONCE = CHATML.replace(
    "<|im_end|>{% endgeneration %}", "{% if loop.last %}<|im_end|>{% endif %}{% endgeneration %}"
)
# Name -> (template, whether replies think); each of these templates writes a reply otherwise once it is not the last.
CHANGING = {
    "qwen3": (TRL["qwen3"], True),
    "qwen3 without thinking": (TRL["qwen3"], False),
    "qwen3.5": (TRL["qwen3_5_think"], True),
    "qwen3.6": (TRL["qwen3_6"], True),
    "GLM 4": (TRL["glm4moe"], True),
    "gpt-oss": (TRL["gptoss"], False),
    "DeepSeek R1": (TRL["deepseek_r1_distill"], True),
    "Nemotron 3": (TRL["nemotron_3_nano"], True),
    "Phi 3": (TRL["phi3"], False),
    "LFM 2.5": (TRL["lfm2_2_5"], True),
    "own markers": (FORGETS, True),
    "end token of the last reply": (ENDS_ONCE, False),
}
KEEPING = {
    "qwen2.5": TRL["qwen2_5"],
    "Llama 3": TRL["llama3"],
    "Gemma": TRL["gemma"],
    "Gemma 3": TRL["gemma3"],
    "Cohere": TRL["cohere"],
    "qwen3-2507": TRL["qwen3_instruct_2507"],
    "ChatML": CHATML,
    "ours": SHIPPED["chat_template"],
}


def conversation(replies: int, thinks: bool, system: bool = False) -> list[dict[str, str]]:
    turns = [turn("system", "Be kind.")] if system else []
    for number in range(replies):
        thought = f"<think>\nthought {number}\n</think>\n\n" if thinks else ""
        turns += [turn("user", f"question {number}"), turn("assistant", f"{thought}answer {number}")]
    return turns


def trained(rows: list[list[dict[str, str]]], tokenizer) -> list[tuple[list[int], list[int]]]:
    """The (context, target) pairs that the rows of these conversations train."""
    template, marks = training_template(tokenizer, True)
    numbered = [(number, {"messages": messages}) for number, messages in enumerate(rows)]
    encoded, _, refused = encode_rows("sft", numbered, tokenizer, marks, template)
    assert not refused
    pairs = []
    for row in encoded:
        position = 0
        for learned, run in groupby(row.learned):
            length = len(list(run))
            if learned:
                pairs.append((row.ids[:position], row.ids[position : position + length]))
            position += length
    return pairs


def shown(messages: list[dict[str, str]], tokenizer) -> list[list[int]]:
    """The tokens that inference shows before each reply."""
    replies = [position for position, message in enumerate(messages) if message["role"] == "assistant"]
    return [
        list(tokenizer.apply_chat_template(messages[:end], add_generation_prompt=True)["input_ids"]) for end in replies
    ]


@pytest.mark.parametrize("replies", some_fast([2, 3], 3))
@pytest.mark.parametrize("name", CHANGING)
def test_each_reply_is_trained_once_after_the_tokens_of_inference(name, replies):
    template, thinks = CHANGING[name]
    tokenizer = foreign_tokenizer(template, bos=True)
    messages = conversation(replies, thinks)
    pairs = trained([messages], tokenizer)
    assert [context for context, _ in pairs] == shown(messages, tokenizer)
    for number, (_, target) in enumerate(pairs):
        text = tokenizer.decode(target)
        assert f"answer {number}" in text and "question" not in text
        assert (f"thought {number}" in text) == thinks
        last = tokenizer.apply_chat_template(
            messages[: 2 * number + 2], chat_template=training_template(tokenizer, True)[0]
        )
        assert list(last["input_ids"])[-len(target) :] == target


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("name", KEEPING)
def test_a_template_that_keeps_earlier_turns_needs_one_row(name, system):
    if system and name == "Gemma":
        return  # it refuses system messages
    tokenizer = foreign_tokenizer(KEEPING[name], bos=True)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]})
    messages = conversation(3, False, system)
    template, marks = training_template(tokenizer, True)
    encoded, _, _ = encode_rows("sft", [(0, {"messages": messages})], tokenizer, marks, template)
    assert len(encoded) == 1
    whole = tokenizer.apply_chat_template(messages, chat_template=template, return_assistant_tokens_mask=True)
    assert encoded[0].ids == list(whole["input_ids"])
    assert encoded[0].learned == list(map(bool, whole["assistant_masks"]))
    for (context, _), expected in zip(trained([messages], tokenizer), shown(messages, tokenizer), strict=True):
        assert encoded[0].ids[: len(expected)] == expected and len(context) <= len(expected)


def test_neighbours_and_order_do_not_matter():
    tokenizer = foreign_tokenizer(TRL["qwen3"])
    rows = [conversation(replies, thinks) for replies in (1, 2, 3) for thinks in (False, True)]
    alone = [pair for messages in rows for pair in trained([messages], tokenizer)]
    assert len(alone) == 12
    assert trained(rows, tokenizer) == alone
    assert sorted(trained(rows[::-1], tokenizer)) == sorted(alone)


def test_turns_around_the_replies_are_context_alone():
    """A last turn of the user is not shown before any reply; a first turn of the assistant has no prompt."""
    tokenizer = foreign_tokenizer(TRL["qwen3"])
    messages = conversation(2, True)
    assert trained([[*messages, turn("user", "thanks")]], tokenizer) == trained([messages], tokenizer)
    started = trained([[turn("assistant", "hello"), *messages]], foreign_tokenizer(CHATML))
    assert len(started) == 3


def test_a_single_reply_is_trls_row():
    for template in (TRL["qwen3"], TRL["glm4moe"], CHATML, FORGETS):
        tokenizer = foreign_tokenizer(template)
        messages = conversation(1, True, system=True)
        own, marks = training_template(tokenizer, True)
        (row,), _, _ = encode_rows("sft", [(0, {"messages": messages})], tokenizer, marks, own)
        whole = tokenizer.apply_chat_template(messages, chat_template=own, return_assistant_tokens_mask=True)
        assert (row.ids, row.learned) == (list(whole["input_ids"]), list(map(bool, whole["assistant_masks"])))


def test_all_tokens_are_one_row():
    """Without assistant_only_loss the tokens of a conversation are learned as the template writes them whole."""
    tokenizer = foreign_tokenizer(TRL["qwen3"])
    messages = conversation(2, True)
    (row,), _, _ = encode_rows("sft", [(0, {"messages": messages})], tokenizer, False, None)
    assert row.ids == list(tokenizer.apply_chat_template(messages)["input_ids"]) and all(row.learned)
