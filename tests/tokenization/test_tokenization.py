"""The tokenizer: lossless, the same after saving, and a chat template that marks exactly what is to be learned."""

import pytest

from alignment.errors import UserError
from alignment.tokenization import SPECIAL_TOKENS, character_tokenizer, chat_eos_ids, train_tokenizer

TEXTS = ["The cat sat on the mat. The dog sat with the cat.", "Yes, the answer is 42. No, the answer is 24."] * 20
CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " The dog?\n"},
    {"role": "assistant", "content": "\n Ünï 🙂 sat "},
    {"role": "user", "content": "Yes"},
    {"role": "assistant", "content": "the cat"},
]
SPECIAL_IDS = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
CHATML = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=290, model_max_length=128)


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def kept(output, value):
    return [token for token, mask in zip(output["input_ids"], output["assistant_masks"], strict=True) if mask == value]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "plain words",
        "  two  spaces ",
        "a\r\n\tb\x00\x1f",
        "é ﬁ İ 漢字 🧑‍🚀 \u2028",
        "don't it's",
        "<|end|> <|user|>",
        "�",
    ],
)
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_round_trip_of_every_plane(tokenizer):
    text = "".join(chr(code) for code in range(0, 0x110000, 7) if not 0xD800 <= code < 0xE000)
    assert tokenizer.decode(encode(tokenizer, text)) == text
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_text_and_chat_begin_with_one_endoftext(tokenizer):
    assert tokenizer("the cat")["input_ids"] == [SPECIAL_IDS["<|endoftext|>"], *encode(tokenizer, "the cat")]
    chat = tokenizer.apply_chat_template(CONVERSATION, return_dict=False)
    assert [index for index, token in enumerate(chat) if token == SPECIAL_IDS["<|endoftext|>"]] == [0]


def test_special_tokens(tokenizer):
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS} == SPECIAL_IDS
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|endoftext|>",
        "<|endoftext|>",
        "<|pad|>",
    )
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    assert tokenizer.decode(tokenizer("a<|end|>b")["input_ids"], skip_special_tokens=True) == "ab"


def test_save_and_load(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "The cat's  answer: 漢字 <|end|>\n"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.apply_chat_template(CONVERSATION) == tokenizer.apply_chat_template(CONVERSATION)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.all_special_tokens == tokenizer.all_special_tokens
    assert loaded.model_max_length == 128 and len(loaded) == len(tokenizer) == 290


def test_training_is_deterministic(tokenizer):
    again = train_tokenizer(iter(TEXTS), vocab_size=290, model_max_length=128)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"got:\s+vocab_size 261\n.*at least 262"):
        train_tokenizer(TEXTS, vocab_size=261, model_max_length=128)


def test_no_texts_are_refused():
    with pytest.raises(UserError, match="No pair of characters"):
        train_tokenizer([], vocab_size=290, model_max_length=128)


def test_too_few_texts_are_reported(caplog):
    train_tokenizer(["the the the"], vocab_size=290, model_max_length=128)
    assert "asks for 290" in caplog.text


def test_rendered_conversation(tokenizer):
    assert tokenizer.apply_chat_template(CONVERSATION, tokenize=False) == (
        "<|endoftext|><|system|> Be kind.<|end|><|user|> The dog?<|end|><|assistant|> Ünï 🙂 sat<|end|>"
        "<|user|> Yes<|end|><|assistant|> the cat<|end|>"
    )


def test_a_reply_has_the_tokens_of_running_text(tokenizer):
    ids = tokenizer.apply_chat_template(CONVERSATION, return_dict=False)
    assert ids[-3:] == [*tokenizer("on the cat")["input_ids"][-2:], SPECIAL_IDS["<|end|>"]]


def test_mask_covers_replies_and_their_ends(tokenizer):
    output = tokenizer.apply_chat_template(CONVERSATION, return_dict=True, return_assistant_tokens_mask=True)
    assert tokenizer.decode(kept(output, 1)) == " Ünï 🙂 sat<|end|> the cat<|end|>"
    assert tokenizer.decode(kept(output, 0)) == (
        "<|endoftext|><|system|> Be kind.<|end|><|user|> The dog?<|end|><|assistant|><|user|> Yes<|end|><|assistant|>"
    )


@pytest.mark.parametrize("turns", [2, 4])
def test_prompt_is_a_prefix(tokenizer, turns):
    full = tokenizer.apply_chat_template(CONVERSATION[: turns + 1], return_dict=False)
    prompt = tokenizer.apply_chat_template(CONVERSATION[:turns], add_generation_prompt=True, return_dict=False)
    assert full[: len(prompt)] == prompt
    assert prompt[-1] == SPECIAL_IDS["<|assistant|>"]


def test_unknown_role_is_refused(tokenizer):
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}])


def test_trl_accepts_the_template(tokenizer):
    from trl.chat_template_utils import has_generation_markers, is_chat_template_stop_token_trained

    assert has_generation_markers(tokenizer.chat_template)
    assert is_chat_template_stop_token_trained(tokenizer)


def test_trl_trains_on_replies_only(tokenizer, tmp_path):
    """What SFTTrainer(assistant_only_loss=True) makes of a conversation, labels included."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    config = LlamaConfig(
        vocab_size=320, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=1
    )
    trainer = SFTTrainer(
        LlamaForCausalLM(config),
        SFTConfig(
            str(tmp_path),
            assistant_only_loss=True,
            per_device_train_batch_size=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list([{"messages": CONVERSATION}]),
        processing_class=tokenizer,
    )
    labels = next(iter(trainer.get_train_dataloader()))["labels"][0]
    assert tokenizer.decode(labels[labels != -100]) == " Ünï 🙂 sat<|end|> the cat<|end|>"


def test_chat_ends(tokenizer):
    assert chat_eos_ids(tokenizer) == [SPECIAL_IDS["<|endoftext|>"], SPECIAL_IDS["<|end|>"]]


def foreign(tokens, **attributes):
    """A tokenizer with other special tokens and a template of its own."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, model_max_length=128)
    tokenizer.add_special_tokens({"extra_special_tokens": tokens})
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_chat_ends_of_foreign_tokenizers():
    chatml = foreign(["<|im_start|>", "<|im_end|>"], chat_template=CHATML)
    assert chatml.convert_ids_to_tokens(chat_eos_ids(chatml)) == ["<|endoftext|>", "<|im_end|>"]
    instruct = foreign(["<|im_start|>", "<|im_end|>"], chat_template=CHATML, eos_token="<|im_end|>")
    assert instruct.convert_ids_to_tokens(chat_eos_ids(instruct)) == ["<|im_end|>"]
    base = foreign([], chat_template=None)
    assert base.convert_ids_to_tokens(chat_eos_ids(base)) == ["<|endoftext|>"]
    plain = foreign([], chat_template="{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    assert plain.convert_ids_to_tokens(chat_eos_ids(plain)) == ["<|endoftext|>"]


def test_no_chat_end_is_refused():
    with pytest.raises(UserError, match="could stop"):
        chat_eos_ids(foreign([], chat_template=None, eos_token=None))


def test_a_character_tokenizer_has_a_token_for_each_character_and_one_for_all_others(tmp_path):
    from transformers import AutoTokenizer

    character_tokenizer(["ab\n", "b c"], 64).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == len(SPECIAL_TOKENS) + 1 + len("\n abc")
    assert tokenizer.decode(encode(tokenizer, "a  c\nb\n\n")) == "a  c\nb\n\n"
    assert encode(tokenizer, "aéz") == [*encode(tokenizer, "a"), *[tokenizer.unk_token_id] * 2]
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id == tokenizer.eos_token_id
    assert tokenizer.apply_chat_template(CONVERSATION[3:4], tokenize=False).startswith("<|endoftext|>")
