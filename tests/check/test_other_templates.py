"""Chat templates and tokenizers of other people: `align check` and the stage agree, and neither ends in a traceback."""

import json

import pytest
from check_cases import CHATML, Case, foreign_tokenizer, some_fast, turn, write_model

import align

NO_MARKERS = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
NO_END = CHATML.replace("<|im_end|>{% endgeneration %}\n", "{% endgeneration %}\n")
# Name -> (stage, chat template, words of the refusal).
REFUSED = {
    "syntax error": ("sft", "{% for m in messages %}{{ m[", ["chat template", "unexpected 'end of template'"]),
    "syntax error, pairs": ("dpo", "{% for m in messages %}{{ m[", ["chat template", "unexpected 'end of template'"]),
    "unsafe attribute": ("kto", "{{ messages.__class__.__mro__ }}" + CHATML, ["chat template", "unsafe"]),
    "division by zero": ("sft", "{{ 1 / 0 }}" + CHATML, ["chat template", "ZeroDivisionError"]),
    "division by zero, prompts": ("ppo", "{{ 1 / 0 }}" + CHATML, ["chat template", "ZeroDivisionError"]),
    "text and number": ("reward", "{{ messages[0]['content'] + 1 }}" + CHATML, ["chat template", "concatenate"]),
    "unknown filter": ("sft", "{{ messages | nofilter }}" + CHATML, ["chat template", "nofilter"]),
    "needs tools": ("sft", "{{ tools | length }}" + CHATML, ["chat template", "NoneType"]),
    "always raises": ("grpo", "{{ raise_exception('not for you') }}", ["chat template", "not for you"]),
    "several, no default": ("sft", {"tool_use": CHATML, "rag": CHATML}, ["chat template", "default", "rag, tool_use"]),
    "several, no default, pairs": ("dpo", {"tool_use": CHATML, "rag": CHATML}, ["chat template", "default"]),
    "writes no reply": ("sft", "hello", ["chat template", "reply"]),
    "no markers": ("sft", NO_MARKERS, ["generation markers", "assistant_only_loss: false"]),
    "several, default without markers": ("sft", {"default": NO_MARKERS, "tool_use": CHATML}, ["generation markers"]),
}
# Name -> (arguments of foreign_tokenizer, entries of tokenizer_config.json) of tokenizers that work.
WORKING = {
    "several templates": ({"template": {"default": CHATML, "tool_use": NO_MARKERS}}, {}),
    "today's date": ({"template": "{{ strftime_now('%d %b %Y') }}" + CHATML}, {}),
    "strips contents": (
        {"template": CHATML.replace("{{ message['content'] }}", "{{ message['content'] | trim }}")},
        {},
    ),
    "cuts at the left": ({}, {"truncation_side": "left"}),
    "pads at the left": ({}, {"padding_side": "left"}),
    "no length": ({}, {"model_max_length": 10**30}),
    "shorter than max_length": ({}, {"model_max_length": 4}),
    "two writers of BOS": ({"template": "<s>" + CHATML, "bos": True}, {}),
    "BOS by the tokenizer alone": ({"bos": True}, {}),
}


def add_to_config(folder, **entries) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def run_stage(case: Case, capsys) -> tuple[int, str]:
    """The exit code of the stage itself without its checks, and what it printed."""
    capsys.readouterr()
    output = str(case.folder / "run" / case.stage)
    code = align.main([case.stage, str(case.write()), "--output_dir", output, "--no-check"])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


FAST = ("syntax error, pairs", "division by zero, prompts", "several, no default", "no markers")


@pytest.mark.parametrize("name", some_fast(REFUSED, *FAST))
def test_a_template_that_cannot_be_used_is_refused_by_check_and_stage(name, case, capsys):
    case.stage, case.template, words = REFUSED[name]
    for act, expected in ((case.check, 1), (lambda out: run_stage(case, out), 2)):
        code, printed = act(capsys)
        assert code == expected, printed
        assert not [word for word in words if word not in printed], printed
        assert "fix:" in printed and "Traceback" not in printed
    assert not (case.folder / "run" / case.stage / "trainer").exists()


@pytest.mark.parametrize("stage", some_fast(["sft", "ppo"], "ppo"))
def test_a_tokenizer_that_splits_special_tokens_is_named(stage, case, capsys, monkeypatch):
    write = case.write

    def split(folder=None):
        file = write()
        add_to_config(case.folder / "model", split_special_tokens=True)
        return file

    monkeypatch.setattr(case, "write", split)
    case.stage = stage
    for act, expected in ((case.check, 1), (lambda out: run_stage(case, out), 2)):
        code, printed = act(capsys)
        assert code == expected and "split_special_tokens" in printed, printed


@pytest.fixture(scope="module")
def slow_tokenizer():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
        "</s>{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return tokenizer


def test_masks_of_replies_need_a_fast_tokenizer(slow_tokenizer, case, capsys):
    file = case.write()
    for path in (case.folder / "model").glob("*token*"):
        path.unlink()
    (case.folder / "model/chat_template.jinja").unlink()
    write_model(case.folder / "model", slow_tokenizer)
    command = [str(file), "--output_dir", str(case.folder / "run/sft")]
    assert align.main(["check", *command]) == 1
    assert "fast tokenizer" in capsys.readouterr().out
    assert align.main(["sft", *command, "--no-check"]) == 2
    assert "fast tokenizer" in capsys.readouterr().err
    align.main(["check", *command, "--assistant_only_loss", "false"])  # the fix
    assert "fast tokenizer" not in capsys.readouterr().out


@pytest.mark.parametrize("stage", some_fast(["sft", "reward", "dpo", "kto", "ppo", "grpo"], "sft", "ppo"))
def test_a_row_that_the_template_refuses_is_named_by_the_stage(stage, case, capsys):
    """The row is outside the sample of the check: only the stage itself meets it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    case.stage, case.recipe = stage, {"eval_share": 0, "use_cpu": True, "bf16": False}
    case.template = (
        "{% if 'Say cloud 4.' in messages[0]['content'] %}{{ raise_exception('no clouds') }}{% endif %}" + CHATML
    )
    tokenizer = foreign_tokenizer()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    case.write()
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, pad_token_id=1, **sizes)
    ).save_pretrained(case.folder / "model")
    written = case.folder / "model/config.json"
    config = written.read_text()
    output = str(case.folder / "run" / stage)
    file = case.write()
    written.write_text(config)
    assert align.main([stage, str(file), "--output_dir", output, "--no-check"]) == 2
    printed = capsys.readouterr().err
    assert (
        "no clouds" in printed and f"row {9 if stage == 'kto' else 5} of" in printed and "Traceback" not in printed
    ), printed


@pytest.mark.parametrize("name", some_fast(WORKING, "several templates", "two writers of BOS"))
def test_other_tokenizers_give_trls_tokens(name, tmp_path, capsys):
    """The tokens and labels of the check are those of TRL's trainer and of apply_chat_template."""
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    from alignment.data.tokenizing.encoding import encode_rows

    options, entries = WORKING[name]
    foreign_tokenizer(**options).save_pretrained(tmp_path)
    add_to_config(tmp_path, **entries)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = [
        {
            "messages": [
                turn("user", f"Say {n}."),
                turn("assistant", f" Zebra {n}. "),
                turn("user", "And?"),
                turn("assistant", "No."),
            ]
        }
        for n in range(3)
    ]
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=1, **shape))
    args = SFTConfig(
        str(tmp_path / "out"), assistant_only_loss=True, max_length=64, use_cpu=True, bf16=False, report_to="none"
    )
    trained = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train_dataset
    encoded, _, refused = encode_rows("sft", enumerate(rows), tokenizer, True)
    assert not refused and len(encoded) == len(rows)
    for row, ours, theirs in zip(rows, encoded, trained, strict=True):
        plain = tokenizer.apply_chat_template(row["messages"], return_assistant_tokens_mask=True, return_dict=True)
        assert ours.ids == list(plain["input_ids"])
        assert ours.learned == [bool(learned) for learned in plain["assistant_masks"]] and any(ours.learned)
        labels = [token if learned else -100 for token, learned in zip(ours.ids, ours.learned, strict=True)]
        assert (theirs["input_ids"], theirs["labels"]) == (ours.ids[:64], labels[:64])


def test_a_template_without_end_tokens_that_trl_has_with_them_is_named():
    """GLM's turns end where the next begins; TRL's version writes that token after the last reply, too."""
    from trl.chat_template_utils import glm4moe_chat_template

    from alignment.check.template import template_with_end
    from alignment.tokenization.chat_format import end_of_turn_id

    tokenizer = foreign_tokenizer(glm4moe_chat_template)
    assert template_with_end(tokenizer) is None, "the token is none of the tokenizer's"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    assert end_of_turn_id(tokenizer) is None
    tokenizer.chat_template = template_with_end(tokenizer).read_text()
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|user|>")
    assert template_with_end(foreign_tokenizer(NO_END)) is None


# Name -> (stage, template, rows) of templates that write what is trained as inference does.
THINKS = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
LATE_SYSTEM = (  # the system message before the last turn alone, if that is the user's, as in Mistral's
    "{% for message in messages %}{% if message['role'] != 'system' %}<|im_start|>{{ message['role'] }}\n"
    "{% if loop.last and message['role'] == 'user' and messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}\n"
    "{% endif %}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>"
    "{% endgeneration %}\n{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = [{"prompt": [turn("system", "Be brief."), turn("user", f"Say kite {number}.")]} for number in range(40)]
THOUGHT = [
    {"messages": [turn("user", f"Say {number}."), turn("assistant", f"<think>\nHm.\n</think>\n\n{number}")]}
    for number in range(40)
]
FAITHFUL = {
    "thinking, in the replies": ("sft", THINKS, THOUGHT),
    "thinking, of prompts": ("grpo", THINKS, None),
    "system before the last turn, of prompts": ("ppo", LATE_SYSTEM, ASKED),
}


@pytest.mark.parametrize("name", FAITHFUL)
def test_a_template_is_checked_on_what_the_stage_trains(name, case, capsys):
    case.stage, case.template, case.rows = FAITHFUL[name]
    code, printed = case.check(capsys)
    assert code == 0, printed


def test_replies_without_the_beginning_that_inference_writes_are_named(case, capsys):
    case.template = THINKS
    code, printed = case.check(capsys)
    assert code == 1 and "begin the data's replies with" in printed, printed
