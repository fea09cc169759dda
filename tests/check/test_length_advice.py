"""Findings about lengths and tokens: their fix, written into the recipe, removes them; nothing exceeds 100%."""

import re

import pytest
import yaml
from check_cases import CHATML, WORDS, Case, conversations, preferences, some_fast, turn

import align
from alignment.check.findings import ERROR, Finding, has_errors
from alignment.check.material import Options
from alignment.check.run import check_stages, merged
from alignment.pipeline.graph import load_stage

NO_MARKERS = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
SETTING = re.compile(r"(?<![\w-])([a-z_]+): ('[^']*'|[^\s,;()]+)")


def text(words: int) -> str:
    return " ".join(WORDS[number % len(WORDS)] for number in range(words))


def replies(long: int, words: int, count: int = 40) -> list[dict]:
    """Conversations, the first `long` of which have a reply of so many words."""
    rows = conversations(count)
    for row in rows[:long]:
        row["messages"][-1]["content"] += text(words)
    return rows


def asked(long: int, words: int, count: int = 40) -> list[dict]:
    rows = conversations(count)
    for row in rows[:long]:
        row["messages"][0]["content"] += text(words)
    return rows


def pairs(side: str, long: int, words: int) -> list[dict]:
    rows = preferences()
    for row in rows[:long]:
        row[side][-1]["content"] += text(words)
    return rows


def labelled(long: int, words: int) -> list[dict]:
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs("prompt", long, words)
        for side in ("chosen", "rejected")
    ]


def prompts(long: int, words: int) -> list[dict]:
    return [{"prompt": row["prompt"]} for row in pairs("prompt", long, words)]


def alike(words: int) -> list[dict]:
    rows = preferences()
    for row in rows:
        for side in ("chosen", "rejected"):
            row[side][-1]["content"] = text(words) + row[side][-1]["content"]
    return rows


# Name -> (stage, rows, recipe, template, tokens, problem); the model has 256 positions.
ADVICE = {
    "sft, fits the context": ("sft", replies(20, 70), {}, CHATML, {}, "max_length truncates rows"),
    "sft, beyond the context": ("sft", replies(20, 300), {}, CHATML, {}, "max_length truncates rows"),
    "sft, at the context": ("sft", replies(20, 300), {"max_length": 256}, CHATML, {}, "max_length truncates rows"),
    "sft, no max_length": ("sft", replies(0, 0), {"max_length": None}, CHATML, {}, "beyond the model's context"),
    "sft, max_length above": ("sft", replies(20, 70), {"max_length": 843}, CHATML, {}, "beyond the model's context"),
    "sft, both": ("sft", replies(20, 300), {"max_length": 843}, CHATML, {}, "beyond the model's context"),
    "sft, replies cut off": ("sft", asked(20, 60), {}, CHATML, {}, "replies are cut off"),
    "sft, replies beyond": ("sft", asked(20, 300), {}, CHATML, {}, "replies are cut off"),
    "sft, packed": ("sft", replies(20, 70), {"packing": True}, CHATML, {}, "packing truncates rows"),
    "sft, keeps the end": ("sft", replies(20, 70), {"truncation_mode": "keep_end"}, CHATML, {}, "truncates rows"),
    "sft, one long row": ("sft", replies(1, 60), {"eval_share": 0}, CHATML, {}, "max_length truncates rows"),
    "reward": ("reward", pairs("rejected", 20, 70), {}, CHATML, {}, "longer than max_length"),
    "reward, beyond": ("reward", pairs("chosen", 20, 300), {}, CHATML, {}, "longer than max_length"),
    "dpo": ("dpo", pairs("chosen", 20, 70), {}, CHATML, {}, "max_length truncates pairs"),
    "dpo, beyond": ("dpo", pairs("prompt", 20, 300), {}, CHATML, {}, "max_length truncates pairs"),
    "dpo, alike": ("dpo", alike(70), {}, CHATML, {}, "differ only beyond max_length"),
    "kto": ("kto", labelled(20, 70), {}, CHATML, {}, "replies are cut off"),
    "kto, beyond": ("kto", labelled(20, 300), {}, CHATML, {}, "max_length truncates rows"),
    "ppo": ("ppo", prompts(20, 70), {"max_completion_length": 200}, CHATML, {}, "no room for a completion"),
    "ppo, beyond": ("ppo", prompts(20, 300), {}, CHATML, {}, "no room for a completion"),
    "grpo, completions alone": ("grpo", prompts(0, 0), {"max_completion_length": 999}, CHATML, {}, "no room"),
    "no pad token": ("sft", conversations(), {}, CHATML, {"pad_token": None}, "no pad token"),
    "pad is eos": ("dpo", preferences(), {}, CHATML, {"pad_token": "<|im_end|>"}, "pad token is the EOS token"),
    "no eos token": ("sft", conversations(), {}, CHATML, {"eos_token": None}, "no eos_token"),
    "no markers": ("sft", conversations(), {}, NO_MARKERS, {}, "no generation markers"),
}


def findings(file, options: Options | None = None) -> list[Finding]:
    return merged(check_stages(load_stage(file.stem, file, mistakes={}), options=options))


@pytest.mark.parametrize("name", some_fast(ADVICE, "sft, both", "dpo, beyond", "ppo, beyond", "no eos token"))
def test_the_fix_of_a_finding_removes_it(name, tmp_path):
    """Also the first fix leads to no other error: no second round is needed."""
    stage, rows, recipe, template, tokens, problem = ADVICE[name]
    case = Case(tmp_path / "case", stage, recipe, rows, template, tokens)
    file = case.write()
    found = findings(file)
    fixes = [finding.fix for finding in found if problem in finding.what]
    assert fixes, found
    settings = {key: yaml.safe_load(value) for fix in fixes for key, value in SETTING.findall(fix)}
    assert settings, fixes
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))
    again = findings(file)
    assert not [finding for finding in again if finding.severity == ERROR or problem in finding.what], (settings, again)


@pytest.mark.parametrize("name", some_fast(ADVICE, "sft, both"))
def test_no_share_exceeds_the_whole(name, tmp_path):
    stage, rows, recipe, template, tokens, _ = ADVICE[name]
    for finding in findings(Case(tmp_path / "case", stage, recipe, rows, template, tokens).write()):
        for part in filter(None, (finding.what, finding.got)):
            assert all(float(share) <= 100 for share in re.findall(r"([\d.]+)%", part)), finding
            for some, whole in re.findall(r"([\d,]+) of ([\d,]+)", part):
                assert int(some.replace(",", "")) <= int(whole.replace(",", "")), finding


@pytest.mark.slow
@pytest.mark.parametrize("rows", [{"rows": 64, "bad": 630}, {"rows": 640, "bad": 64}])
def test_unusable_rows_are_a_share_of_the_rows_read(rows, tmp_path):
    bad = [{"messages": [turn("user", f"Say {n}"), turn("assistant", "")]} for n in range(rows["bad"])]
    for recipe in ({}, {"max_train_samples": 10}, {"eval_share": 0.5}, {"streaming": True, "max_train_samples": 680}):
        case = Case(tmp_path / f"case{len(recipe)}", "sft", recipe, [*bad, *conversations(rows["rows"])])
        for sample in (5, 1000):
            found = findings(case.write(), Options(sample))
            assert has_errors(found)
            assert all(float(share) <= 100 for one in found for share in re.findall(r"([\d.]+)%", one.got or "")), found


@pytest.mark.parametrize("stage", some_fast(["sft", "reward", "dpo", "kto", "pretrain"], "sft"))
@pytest.mark.parametrize("length", some_fast([0, -1, -843, 1], -843))
def test_an_impossible_max_length_is_a_users_error(stage, length, case, capsys):
    case.stage, case.recipe = stage, {"max_length": length}
    code, printed = case.check(capsys)
    assert code == 1 and "max_length is too small" in printed and "expected: 2 or more" in printed
    assert align.main([stage, str(case.folder / f"{stage}.yaml"), "--output_dir", str(case.folder / "run/it")]) == 2


ENDLESS = [
    {"num_train_epochs": 1e9},
    {"num_train_epochs": 1e300},
    {"num_train_epochs": float("inf")},
    {"num_train_epochs": float("nan")},
    {"num_train_epochs": 0},
    {"num_train_epochs": -1},
    {"max_steps": 10**12},
    {"max_steps": 10**30},
    {"warmup_steps": 10**30},
    {"per_device_train_batch_size": 10**12},
    {"gradient_accumulation_steps": 10**12},
]


@pytest.mark.parametrize("stage", some_fast(["sft", "ppo", "grpo", "pretrain"], "sft"))
@pytest.mark.parametrize("recipe", some_fast(ENDLESS, ENDLESS[2], ENDLESS[6], ENDLESS[9]), ids=str)
def test_numbers_without_measure_do_not_stop_the_check(stage, recipe, case, capsys):
    case.stage, case.recipe = stage, recipe
    code, printed = case.check(capsys)
    assert code in (0, 1) and "1 stage checked" in printed
    epochs = recipe.get("num_train_epochs", 1)
    if not 0 < epochs < float("inf"):
        assert code == 1 and "num_train_epochs" in printed
