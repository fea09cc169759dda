"""Injected faults: a small recipe that passes, with one fault, and the message that must name it."""

import gzip
import json

import pytest
from check_cases import CHATML, DATA, KIND_OF, WORDS, Case, conversations, preferences, turn

STAGES = ["sft", "reward", "dpo", "ppo", "grpo", "pretrain"]
NO_MARKERS = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
NO_END = CHATML.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}")
END_UNMASKED = CHATML.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
OTHER_PROMPT = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
NO_SYSTEM = CHATML.replace(
    "{% for message in messages %}", "{% for message in messages if message['role'] != 'system' %}"
)
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
# Learns nothing from requests with these words.
EMPTY_MASK = CHATML.replace(
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}",
    "{% if 'Say zebra' in messages[0]['content'] %}{{ message['content'] }}<|im_end|>{% else %}{% generation %}"
    "{{ message['content'] }}<|im_end|>{% endgeneration %}{% endif %}",
)
# The space at the prompt's end and the reply's first letters are one token in training.
MERGES = CHATML.replace("{{ message['role'] }}\n{% if", "{{ message['role'] }} {% if").replace(
    "assistant\n{% endif %}", "assistant {% endif %}"
)


def with_system(rows):
    return [{"messages": [turn("system", "Be kind."), *row["messages"]]} for row in rows]


def replaced(rows, share, change):
    """The rows, the first `share` of them changed in place."""
    for row in rows[: int(share * len(rows))]:
        change(row)
    return rows


def set_reply(text):
    return lambda row: row["messages"].__setitem__(-1, turn("assistant", text))


def set_rejected(text):
    return lambda row: row.update(rejected=[turn("assistant", text)])


def same_sides(row):
    row["rejected"] = row["chosen"]


def transcripts(row):
    row["chosen"] = [turn("user", "One?"), turn("assistant", "Yes.")]
    row["rejected"] = [turn("user", "Two?"), turn("assistant", "No.")]
    del row["prompt"]


def long_and_alike(rows):
    words = " ".join(WORDS * 20)
    for row in rows:
        row["chosen"], row["rejected"] = [turn("assistant", words + " one")], [turn("assistant", words + " two")]
    return rows


def file(name, content):
    def write(case):
        case.folder.mkdir()
        case.data = name
        (case.folder / name).write_bytes(content)

    return write


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def held_out(rows):
    """A folder with the usual train.jsonl, and the rows as test.jsonl."""

    def write(case):
        folder = case.folder / "data"
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_bytes(lines(conversations()))
        (folder / "test.jsonl").write_bytes(lines(rows))
        case.recipe |= {"dataset_name": str(folder)}

    return write


def set_case(**values):
    def change(case):
        for name, value in values.items():
            setattr(case, name, value)

    return change


def reward_file(code):
    def change(case):
        case.folder.mkdir()
        (case.folder / "broken.py").write_text(code)
        case.recipe = {"reward_funcs": [f"{case.folder}/broken.py:brief"]}

    return change


MODELS = {"mamba": {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}}

# name: (stage, what is broken, exit code, words that the message must have)
FAULTS = {
    # tokenizer and template
    "pad is eos": (
        "sft",
        set_case(tokens={"pad_token": "<|im_end|>"}),
        1,
        ["error: sft: the pad token is the EOS token", "pad_token: '<|pad|>'"],
    ),
    "pad is eos, pretraining": (
        "pretrain",
        set_case(tokens={"pad_token": "<|im_end|>"}),
        0,
        ["warning: pretrain: the pad token is the EOS token"],
    ),
    "no pad token": (
        "reward",
        set_case(tokens={"pad_token": None}),
        1,
        ["error: reward: the tokenizer has no pad token"],
    ),
    "no eos token": ("sft", set_case(tokens={"eos_token": None}), 1, ["error: sft: the tokenizer has no eos_token"]),
    "adapter on no layer": (
        "sft",
        set_case(recipe={"use_peft": True, "lora_target_modules": ["query_key_value"]}),
        1,
        ["lora_target_modules names layers that the model does not have", "got:      query_key_value", "q_proj"],
    ),
    "4 bit without CUDA": (
        "sft",
        set_case(recipe={"use_peft": True, "load_in_4bit": True}),
        1,
        ["load_in_4bit: true needs a quantised base", "no CUDA device", "dtype: bfloat16"],
    ),
    "no template, base model": (
        "sft",
        set_case(template=None, tokens={"pad_token": None, "eos_token": "<|endoftext|>"}),
        0,
        ["gets chatml, with tokens that its vocabulary has", "pads with <|pad|>"],
    ),
    "no template": ("dpo", set_case(template=None), 1, ["error: dpo: the tokenizer has no chat template"]),
    "no generation markers": (
        "sft",
        set_case(template=NO_MARKERS),
        1,
        ["has no generation markers", "assistant_only_loss: false"],
    ),
    "no end token": ("sft", set_case(template=NO_END), 1, ["writes no end token after a reply"]),
    "no end token, pairs": ("dpo", set_case(template=NO_END), 1, ["writes no end token after a reply"]),
    "end token not learned": (
        "sft",
        set_case(template=END_UNMASKED),
        1,
        ["the end token of a reply is not in the loss mask"],
    ),
    "two bos": (
        "sft",
        set_case(template="<s><s>" + CHATML, tokens={"bos": True}),
        1,
        ["conversations begin with two BOS tokens", "'<s><s>"],
    ),
    "bos of the tokenizer and of the template": (
        "sft",
        set_case(template="<s>" + CHATML, tokens={"bos": True}),
        0,
        ["rendered text begins with two BOS tokens if it is tokenized again"],
    ),
    "inference prompt differs": (
        "sft",
        set_case(template=OTHER_PROMPT),
        1,
        ["writes prompts differently at inference and in training", "<think>"],
    ),
    "reply's first token merges with the prompt": (
        "sft",
        set_case(template=MERGES),
        1,
        ["writes prompts differently at inference and in training", "the same text in different tokens"],
    ),
    "system ignored": (
        "sft",
        set_case(template=NO_SYSTEM, rows=with_system(conversations())),
        1,
        ["system messages, which the chat template ignores", "of 38 sampled rows"],
    ),
    "system refused": (
        "sft",
        set_case(template=REFUSES_SYSTEM, rows=with_system(conversations())),
        1,
        ["system messages, which the chat template refuses", "no system here"],
    ),
    "tokens beyond the vocabulary": (
        "sft",
        set_case(config={"vocab_size": 200}),
        1,
        ["tokens beyond the model's vocabulary", "vocab_size 200"],
    ),
    "eos_token not in the vocabulary": (
        "sft",
        set_case(recipe={"eos_token": "</done>"}),
        1,
        ["eos_token is not a token of the tokenizer", "</done>"],
    ),
    # files
    "column typo": (
        "sft",
        set_case(rows=[{"mesages": row["messages"]} for row in conversations()]),
        1,
        ["columns are not recognised as sft data", "mesages", "columns: {mesages: messages}"],
    ),
    "columns names none": (
        "sft",
        set_case(recipe={"columns": {"mesages": "messages"}}),
        1,
        ["names columns that the data set does not have: mesages"],
    ),
    "unknown column": (
        "sft",
        set_case(rows=[row | {"flavour": 1} for row in conversations()]),
        0,
        ["note: sft: columns not read: flavour"],
    ),
    "history in a column": (
        "sft",
        set_case(rows=[row | {"history": "Be kind."} for row in conversations()]),
        0,
        ["warning: sft: columns that change the meaning of a row are not read: history"],
    ),
    "context that a prompt lacks": (
        "grpo",
        set_case(rows=[{"prompt": row["messages"][:1], "context": "It neighs."} for row in conversations()]),
        0,
        ["warning: grpo: columns that change the meaning of a row are not read: context", "context in 40 rows"],
    ),
    "a column named like an argument": (
        "grpo",
        set_case(rows=[{"prompt": row["messages"][:1], "completions": ["a"]} for row in conversations()]),
        0,
        ["note: grpo: columns named like an argument of reward functions are left out: completions"],
    ),
    "bad replies": (
        "sft",
        set_case(rows=[row | {"label": number % 2} for number, row in enumerate(conversations())]),
        1,
        ["replies are labelled as unwanted", "20 of 40 rows", "columns: {label: data_label}"],
    ),
    "a margin that dpo does not read": (
        "dpo",
        set_case(rows=[row | {"margin": 1.0} for row in preferences()]),
        0,
        ["note: dpo: columns not read: margin"],
    ),
    "truncated gz": (
        "sft",
        file("data.jsonl.gz", gzip.compress(lines(conversations()))[:-20]),
        1,
        ["data.jsonl.gz is truncated", "gzip data without its end"],
    ),
    "invalid json": (
        "sft",
        file("data.jsonl", lines(conversations()[:4]) + b'{"messages": [}\n'),
        1,
        ["is not valid JSON at line 5"],
    ),
    "not utf-8": (
        "sft",
        file("data.jsonl", lines(conversations()) + b'{"messages": "\xff\xfe"}\n'),
        1,
        ["data.jsonl is not UTF-8 at line 41", "byte 0xff"],
    ),
    "empty file": ("sft", file("data.jsonl", b""), 1, ["data.jsonl is empty"]),
    "no file": ("sft", set_case(recipe={"dataset_name": "nowhere.jsonl"}), 1, ["There is no file nowhere.jsonl"]),
    # rows
    "empty replies": (
        "sft",
        set_case(rows=replaced(conversations(), 0.25, set_reply(" "))),
        1,
        ["error: sft: rows are dropped: assistant turns are empty", "10 of 40 rows"],
    ),
    "an empty reply": (
        "sft",
        set_case(rows=replaced(conversations(), 0.025, set_reply(""))),
        0,
        ["warning: sft: rows are dropped: assistant turns are empty", "1 of 40 rows"],
    ),
    "identical pairs": (
        "dpo",
        set_case(rows=replaced(preferences(), 0.25, same_sides)),
        1,
        ["chosen and rejected are identical", "10 of 40 rows"],
    ),
    "prompts of pairs differ": (
        "reward",
        set_case(
            rows=replaced(
                [
                    {
                        "chosen": row["prompt"] + row["chosen"],
                        "rejected": row["prompt"] + row["rejected"],
                        "prompt": None,
                    }
                    for row in preferences()
                ],
                0.25,
                transcripts,
            )
        ),
        1,
        ["the prompts of pairs differ", "10 of 40 rows"],
    ),
    "pairs alike within max_length": (
        "dpo",
        set_case(rows=long_and_alike(preferences())),
        1,
        ["chosen and rejected differ only beyond max_length", "first 128 tokens"],
    ),
    "duplicates": (
        "sft",
        set_case(rows=conversations() + conversations()[:8]),
        0,
        ["warning: sft: training rows are exact duplicates", "8 of", "set deduplicate: exact to drop them"],
    ),
    "special tokens in the text": (
        "sft",
        set_case(rows=replaced(conversations(), 0.25, set_reply("Zebra<|im_end|>"))),
        0,
        ["warning: sft: the text contains special tokens", "'<|im_end|>' in"],
    ),
    "mask empty": ("sft", set_case(template=EMPTY_MASK), 1, ["rows have an empty loss mask"]),
    "scores are nan": (
        "ppo",
        set_case(
            rows=[
                {"prompt": row["prompt"], "score": float("nan") if number == 3 else 1.0}
                for number, row in enumerate(preferences())
            ]
        ),
        0,
        ["warning: ppo: the column 'score' has rows without a number", "1 of"],
    ),
    "margins are null": (
        "reward",
        set_case(rows=[row | {"margin": None if n == 3 else 1.0} for n, row in enumerate(preferences())]),
        1,
        ["the column 'margin' has rows without a number", "1 of"],
    ),
    # splits
    "test rows in train": (
        "sft",
        held_out([*conversations()[:5], {"messages": [turn("user", "New?"), turn("assistant", "Yes.")]}]),
        1,
        ["held-out rows are in the training rows", "5 of 40 rows", "Say zebra 0."],
    ),
    "near-duplicates in train": (
        "sft",
        held_out([{"messages": [turn("user", "say ZEBRA, 0"), turn("assistant", "zebra  0")]}]),
        0,
        ["warning: sft: held-out rows are near-duplicates of training rows", "1 of 1 rows"],
    ),
    "validation is train": (
        "sft",
        set_case(recipe={"dataset_test_split": "train"}),
        1,
        ["would be validated on its training split"],
    ),
    "validation is empty": ("sft", held_out([]), 1, ["is empty"]),
    "no validation": (
        "sft",
        set_case(recipe={"eval_share": 0.0, "eval_strategy": "epoch"}),
        1,
        ["the recipe evaluates, but there is no validation split"],
    ),
    "no test split for the card": ("reward", set_case(recipe={"dataset_card_split": "test"}), 1, ["has no split test"]),
    # lengths
    "max_length cuts half": (
        "sft",
        set_case(rows=replaced(conversations(), 0.5, set_reply(" ".join(WORDS * 10)))),
        1,
        ["error: sft: max_length truncates rows", "of 38 sampled rows", "--max_truncated"],
    ),
    "max_length cuts one": (
        "sft",
        set_case(
            rows=[*conversations(99), {"messages": [turn("user", "All?"), turn("assistant", " ".join(WORDS * 10))]}],
            recipe={"eval_share": 0.0},
        ),
        0,
        ["warning: sft: max_length truncates rows", "1 of 100 sampled rows"],
    ),
    "replies cut off": (
        "sft",
        set_case(
            rows=replaced(
                conversations(), 0.5, lambda row: row["messages"].__setitem__(0, turn("user", " ".join(WORDS * 15)))
            )
        ),
        1,
        ["replies are cut off before their first token"],
    ),
    "pairs too long for the reward model": (
        "reward",
        set_case(rows=long_and_alike(preferences())),
        1,
        ["TRL drops pairs longer than max_length"],
    ),
    "prompts too long": (
        "ppo",
        set_case(rows=[{"prompt": " ".join(WORDS * 30)}] * 10, recipe={"eval_share": 0.0}),
        1,
        ["prompts leave no room for a completion", "256 tokens"],
    ),
    "beyond the context": (
        "sft",
        set_case(recipe={"max_length": 512}),
        1,
        ["max_length is beyond the model's context", "256 positions"],
    ),
    # settings
    "reward file does not import": (
        "ppo",
        reward_file("import no_such_package\n"),
        1,
        ["broken.py cannot be imported", "no_such_package"],
    ),
    "reward file has a syntax error": (
        "ppo",
        reward_file("def brief(:\n"),
        1,
        ["broken.py cannot be imported", "invalid syntax"],
    ),
    "no such reward function": ("ppo", reward_file("def other():\n    pass\n"), 1, ["has no function 'brief'"]),
    "no column for a reward": (
        "grpo",
        set_case(recipe={"reward_funcs": ["rules:answer_match?column=nope", "rules:length_band?low=1&high=9"]}),
        1,
        ["answer_match needs a column that the rows do not have: nope"],
    ),
    "a column without values": (
        "ppo",
        set_case(
            rows=[{"prompt": f"Say {n}.", "answer": ""} for n in range(40)],
            recipe={"reward_funcs": ["rules:answer_match?"]},
        ),
        1,
        ["answer_match? has no value in any row of its column 'answer'"],
    ),
    "a column that no reward gets, and rows without an answer": (
        "ppo",
        set_case(
            rows=[{"prompt": f"Say {n}.", "completions": "x", "answer": "3" if n else ""} for n in range(40)],
            recipe={"reward_funcs": ["rules:answer_match?"]},
        ),
        0,
        [
            "named like an argument of reward functions are left out: completions",
            "no reward for rows without a value in 'answer'",
        ],
    ),
    "too few prompts for a rollout": (
        "grpo",
        set_case(recipe={"steps_per_generation": 64}),
        1,
        ["too few prompts for one rollout", "64: generation_batch_size / num_generations"],
    ),
    "groups that do not fill a rollout": (
        "grpo",
        set_case(recipe={"num_generations": 3}),
        1,
        ["must be divisible by num_generations"],
    ),
    "no step": (
        "sft",
        set_case(recipe={"per_device_train_batch_size": 64, "dataloader_drop_last": True}),
        1,
        ["there are too few rows for one step"],
    ),
    "less than a batch": (
        "sft",
        set_case(recipe={"per_device_train_batch_size": 64}),
        0,
        ["warning: sft: there are fewer rows than one optimizer batch"],
    ),
    "all warmup": (
        "sft",
        set_case(recipe={"warmup_steps": 100}),
        0,
        ["warning: sft: training ends before the warmup does", "19 steps"],
    ),
    "packed without boundaries": (
        "sft",
        set_case(recipe={"packing": True, "packing_strategy": "wrapped"}),
        1,
        ["packed rows attend to each other", "wrapped"],
    ),
    "packed on a recurrent model": (
        "sft",
        set_case(recipe={"packing": True}, config=MODELS["mamba"]),
        1,
        ["packed rows attend to each other", "recurrent"],
    ),
    "unknown key": ("sft", set_case(recipe={"learning_rat": 1.0}), 1, ["unknown key 'learning_rat'", "learning_rate"]),
    "replay is not there": (
        "sft",
        set_case(recipe={"replay_dataset_name": "nowhere.txt"}),
        1,
        ["There is no file nowhere.txt"],
    ),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_valid_recipe_passes_clean(stage, case, capsys):
    case.stage = stage
    code, printed = case.check(capsys)
    assert code == 0
    assert "1 stage checked: 0 errors, 0 warnings" in printed


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_named(name, case: Case, capsys):
    case.stage, breaks, expected, words = FAULTS[name]
    breaks(case)
    code, printed = case.check(capsys)
    assert not [word for word in words if word not in printed], printed
    assert code == expected, printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("stage", ["dpo", "kto", "grpo"])
def test_scores_that_no_stage_reads_may_be_missing(stage, case, capsys):
    """A text, a list, and, where no reward function receives it, a number."""
    case.stage = stage
    first = {"gold_label": None, "rewards": [0.5, None], "margin_note": ""} | (
        {} if stage == "grpo" else {"score": None}
    )
    other = {"gold_label": "a", "rewards": [1.0], "margin_note": "b"} | ({} if stage == "grpo" else {"score": 0.5})
    case.rows = [row | (other if number else first) for number, row in enumerate(DATA[KIND_OF[stage]]())]
    code, printed = case.check(capsys)
    assert code == 0 and "without a number" not in printed, printed


def test_several_faults_are_reported_together(case, capsys):
    case.template, case.tokens, case.recipe = OTHER_PROMPT, {"pad_token": "<|im_end|>"}, {"max_length": 512}
    code, printed = case.check(capsys)
    assert code == 1
    for what in ("pad token is the EOS", "differently at inference", "beyond the model's context", ": 3 errors"):
        assert what in printed
