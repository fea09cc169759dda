"""The table of formats: known rows in; messages, token ids and the mask of what is learned out, all pinned.

Through the GPT's own template and two foreign ones. format_table.yaml has the tokens, parted by spaces; those that
carry the loss stand in brackets. `Ġ` is a space and `Ċ` a line end inside a token.
"""

from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from trl.chat_template_utils import get_training_chat_template, llama3_chat_template, qwen3_instruct_2507_chat_template

from alignment.data.columns.cell_values import Row
from alignment.data.reading.formats import FORMATS, KINDS, convert, recognise
from alignment.data.reading.row_formats import DIALOGUES, REPLIES, REQUESTS, canonical_rows_of
from alignment.tokenization import train_tokenizer

PLAIN_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = ["system", "user", "assistant", "Be", "kind", "Say", "hi", "hey", "Hi", "Hey", "Sort", "b", "a", ".", "\n"]


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def reply(content):
    return {"role": "assistant", "content": content}


# The conversations that all rows below come to.
HI, HEY = [user("Say hi."), reply("Hi.")], [user("Say hi."), reply("Hey.")]
KIND = [system("Be kind."), *HI]
TURNS = [*HI, user("Say hey."), reply("Hey.")]
OTHER_TURNS = [*HI, user("Say hey."), reply("Hi.")]
SORT = [user("Sort.\n\nb a"), reply("a b")]


def sharegpt(messages):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[message["role"]], "value": message["content"]} for message in messages]


def transcript(messages):
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in messages)


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}


def labelled(conversation, label):
    return {"prompt": conversation[:-1], "completion": conversation[-1:], "label": label}


RATED = {"prompt": "Say hi.", "chosen": HI, "rejected": HEY, "messages": HI, "score_chosen": 8.0, "score_rejected": 5.0}
INSTANCES = {"instruction": "Sort.", "instances": [{"input": "b a", "output": "a b"}] * 2}
HI_OR_HEY = pair(HI[:1], HI[1], HEY[1])
# kind, a row, the canonical rows.
TABLE = [
    ("text", {"text": "Say hi."}, [{"text": "Say hi."}]),
    ("text", {"content": "Say hi.", "id": 1}, [{"text": "Say hi."}]),
    ("sft", {"messages": KIND}, [{"messages": KIND}]),
    ("sft", {"messages": TURNS}, [{"messages": TURNS}]),
    ("sft", {"conversations": sharegpt(KIND)}, [{"messages": KIND}]),
    ("sft", {"conversations": sharegpt(HI), "system": "Be kind."}, [{"messages": KIND}]),
    ("sft", {"prompt": "Say hi.", "completion": "Hi."}, [{"messages": HI}]),
    ("sft", {"prompt": KIND[:2], "completion": KIND[2:]}, [{"messages": KIND}]),
    ("sft", {"prompt": "Say hi.", "response": "Hi."}, [{"messages": HI}]),
    ("sft", {"instruction": "Sort.", "input": "b a", "output": "a b"}, [{"messages": SORT}]),
    ("sft", {"instruction": "Say hi.", "input": "", "output": "Hi."}, [{"messages": HI}]),
    ("sft", INSTANCES, [{"messages": SORT}] * 2),
    ("sft", {"question": "Say hi.", "answer": "Hi."}, [{"messages": HI}]),
    ("sft", {"query": "Say hi.", "response": "Hi."}, [{"messages": HI}]),
    ("sft", {"transcript": transcript(TURNS)}, [{"messages": TURNS}]),
    ("preference", {"prompt": "Say hi.", "chosen": "Hi.", "rejected": "Hey."}, [HI_OR_HEY]),
    ("preference", {"prompt": KIND[:2], "chosen": HI[1:], "rejected": HEY[1:]}, [pair(KIND[:2], HI[1], HEY[1])]),
    ("preference", RATED, [HI_OR_HEY]),
    ("preference", {"chosen": HI, "rejected": HEY}, [HI_OR_HEY]),
    (
        "preference",
        {"chosen": transcript(TURNS), "rejected": transcript(OTHER_TURNS)},
        [pair(TURNS[:3], TURNS[3], OTHER_TURNS[3])],
    ),
    ("prompts", {"prompt": "Say hi.", "label": "safe"}, [{"prompt": HI[:1]}]),
    ("prompts", {"instruction": "Sort.", "input": "b a"}, [{"prompt": SORT[:1]}]),
    ("prompts", INSTANCES, [{"prompt": SORT[:1]}] * 2),
    ("prompts", {"question": "Say hi."}, [{"prompt": HI[:1]}]),
    ("prompts", {"query": "Say hi."}, [{"prompt": HI[:1]}]),
    ("prompts", {"messages": TURNS}, [{"prompt": TURNS[:3]}]),
    ("prompts", {"conversations": sharegpt(KIND)}, [{"prompt": KIND[:2]}]),
    ("prompts", {"chosen": transcript(TURNS)}, [{"prompt": TURNS[:3]}]),
    ("prompts", {"transcript": transcript(HI)}, [{"prompt": HI[:1]}]),
    ("kto", {"prompt": "Say hi.", "completion": "Hi.", "label": True}, [labelled(HI, True)]),
    ("kto", {"prompt": "Say hi.", "completion": "Hey.", "label": 0}, [labelled(HEY, False)]),
    ("kto", {"prompt": "Say hi.", "chosen": "Hi.", "rejected": "Hey."}, [labelled(HI, True), labelled(HEY, False)]),
    ("kto", {"chosen": HI, "rejected": HEY}, [labelled(HI, True), labelled(HEY, False)]),
]


def word_tokenizer(special, template, bos=None):
    """A tokenizer of fixed words; a space before a word is a token of its own kind, as in byte-level ones."""
    words = [*special, *WORDS, *(f" {word}" for word in WORDS[:-2])]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?\w+|\."), "isolated")
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        unk_token=special[0],
        extra_special_tokens=special[1:],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def chatml(template):
    return word_tokenizer(["<unk>", "<|im_start|>", "<|im_end|>"], template)


def training(tokenizer):
    """The tokenizer with the training variant that TRL has of its template."""
    tokenizer.chat_template = get_training_chat_template(tokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    texts = [" ".join(message["content"] for message in conversation) for conversation in (KIND, TURNS, SORT)]
    llama3 = ["<unk>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return {
        "gpt": train_tokenizer([f" {text}" for text in texts] * 9, vocab_size=280, model_max_length=64),
        "chatml": training(chatml(qwen3_instruct_2507_chat_template)),
        "llama3": training(word_tokenizer(llama3, llama3_chat_template, bos="<|begin_of_text|>")),
    }


CONVERSATIONS = {
    "hi": HI,
    "hey": HEY,
    "kind": KIND,
    "kind hey": [*KIND[:2], *HEY[1:]],
    "turns": TURNS,
    "other turns": OTHER_TURNS,
    "sort": SORT,
    "ask hi": HI[:1],
    "ask kind": KIND[:2],
    "ask turns": TURNS[:3],
    "ask sort": SORT[:1],
}
EXPECTED = yaml.safe_load(Path(__file__).with_name("format_table.yaml").read_text(encoding="utf-8"))
TEMPLATES = ("gpt", "chatml", "llama3")


def encoded(tokenizer, conversation):
    """Token ids and mask, as TRL's trainers take them; a conversation that waits for a reply gets its beginning."""
    waits = conversation[-1]["role"] == "user"
    both = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=waits, return_dict=True, return_assistant_tokens_mask=True
    )
    return both["input_ids"], both["assistant_masks"]


def shown(tokenizer, ids, mask):
    tokens = [token.replace(" ", "Ġ").replace("\n", "Ċ") for token in tokenizer.convert_ids_to_tokens(ids)]
    return " ".join(f"[{token}]" if learned else token for token, learned in zip(tokens, mask, strict=True))


def conversations_of(kind, row):
    """What a stage trains on or continues, of one canonical row."""
    if kind == "preference":
        return [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]
    if kind == "kto":
        return [row["prompt"] + row["completion"]]
    return [row["messages"] if kind == "sft" else row["prompt"]]


def identity(case):
    return ", ".join(case) if isinstance(case, dict) else None


@pytest.mark.parametrize(("kind", "row", "expected"), TABLE, ids=identity)
def test_rows_to_messages_to_tokens_and_mask(tokenizers, kind, row, expected):
    rows, report = convert(Dataset.from_list([row], on_mixed_types="use_json"), kind)
    assert rows.to_list() == expected
    assert (report.rows, report.read, report.kept, report.dropped) == (1, len(expected), len(expected), {})
    for template, tokenizer in tokenizers.items():
        pinned = EXPECTED[template]
        for found in rows:
            if kind == "text":
                assert tokenizer(found["text"])["input_ids"] == pinned["text"]["ids"]
                continue
            for conversation in conversations_of(kind, found):
                name = next(name for name, known in CONVERSATIONS.items() if known == conversation)
                ids, mask = encoded(tokenizer, conversation)
                assert ids == pinned[name]["ids"]
                assert shown(tokenizer, ids, mask) == pinned[name]["tokens"]


def row_of(kind, format):
    """A row with the columns of a format that comes to the conversation HI."""
    paired = {"chosen", "rejected"} <= set(format) and len(format) > 2
    values = {
        **dict.fromkeys(REQUESTS, "Say hi."),
        **dict.fromkeys(REPLIES, "Hi."),
        **dict.fromkeys(DIALOGUES, HI[:1] if paired else HI),
        "chosen": HI[1:],
        "rejected": HEY[1:],
        **({} if paired else {"chosen": HI, "rejected": HEY}),
        "text": "Say hi.",
        "content": "Say hi.",
        "transcript": transcript(HI),
        "label": True,
        "instances": [{"input": "", "output": "Hi."}],
    }
    return {name: values[name] for name in format}


RESULTS = {
    "text": [{"text": "Say hi."}],
    "sft": [{"messages": HI}],
    "preference": [HI_OR_HEY],
    "prompts": [{"prompt": HI[:1]}],
    "kto": [labelled(HI, True)],
}


@pytest.mark.parametrize(("kind", "format"), [(kind, format) for kind in KINDS for format in FORMATS[kind]])
def test_every_format_comes_to_the_same_rows(kind, format):
    """Whatever the columns are called: all sets of columns that are recognised."""
    row = row_of(kind, format)
    assert recognise(list(row), kind) == format
    expected = RESULTS[kind] + ([labelled(HEY, False)] if kind == "kto" and "chosen" in format else [])
    assert list(canonical_rows_of(Row(row), kind, format)) == expected


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_learned_is_the_replies_and_their_ends(tokenizers, template):
    """Stated apart from the pins: nothing of a request, all of each reply, and the token that ends a turn."""
    tokenizer, end = tokenizers[template], {"gpt": "<|end|>", "chatml": "<|im_end|>", "llama3": "<|eot_id|>"}[template]
    ids, mask = encoded(tokenizer, TURNS)
    learned = tokenizer.decode([token for token, in_reply in zip(ids, mask, strict=True) if in_reply])
    assert learned.replace("\n", "").replace(" ", "") == f"Hi.{end}Hey.{end}"
    start = tokenizer.bos_token_id
    assert start is None or (ids[0] == start and ids.count(start) == 1)


@pytest.mark.parametrize("template", TEMPLATES)
def test_training_and_inference_write_one_beginning(tokenizers, template):
    for conversation in (HI, KIND, TURNS, SORT):
        (whole, _), (prompt, _) = (encoded(tokenizers[template], part) for part in (conversation, conversation[:-1]))
        assert whole[: len(prompt)] == prompt and len(whole) > len(prompt)


def test_without_generation_markers_nothing_is_learned(tokenizers):
    """A plain ChatML template gives the same tokens and an empty mask, and TRL has no training variant of it."""
    plain = chatml(PLAIN_CHATML)
    ids, mask = encoded(plain, TURNS)
    assert ids == EXPECTED["chatml"]["turns"]["ids"] and not any(mask)
    with pytest.raises(ValueError, match="not training-compatible"):
        get_training_chat_template(plain)
    marked = PLAIN_CHATML.replace(
        "message['content'] + '<|im_end|>' + '\n'",
        "'' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n'",
    )
    assert encoded(chatml(marked), TURNS)[0] == ids
    assert shown(plain, *encoded(chatml(marked), HI)).endswith("assistant Ċ [Hi] [.] [<|im_end|>] Ċ")


@pytest.mark.parametrize("source", [qwen3_instruct_2507_chat_template, llama3_chat_template])
def test_the_training_variant_changes_no_token(tokenizers, source):
    template = "llama3" if source == llama3_chat_template else "chatml"
    tokenizer = tokenizers[template]
    for conversation in (HI, KIND, TURNS, SORT, HI[:1]):
        waits = conversation[-1]["role"] == "user"
        before = tokenizer.apply_chat_template(
            conversation, chat_template=source, add_generation_prompt=waits, return_dict=True
        )
        assert before["input_ids"] == encoded(tokenizer, conversation)[0]
