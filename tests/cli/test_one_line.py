"""`align STAGE --model MODEL --data FILE [--lora]`: the recipe that is made, where it goes, and what it fits."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import base_models
import pytest

import align
from alignment.check import fitting
from alignment.check.findings import error, in_options
from alignment.check.template import find_unusable
from alignment.cli.python_api import run_stage
from alignment.cli.train.one_line import recipe_keys
from alignment.cli.train.recipe_place import Place, command_of, place_of, write
from alignment.data.tokenizing.length_advice import RowLength, length_fix
from alignment.errors import UserError
from alignment.estimate.compute import Device
from alignment.estimate.fit import SAFE_SHARE
from alignment.pipeline.recipes.draft import draft, recipe_text
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.stages import STAGES

SFT = ["sft", "--model", "base", "--data", "instructions.jsonl", "--lora", "--max_steps", "1"]
FULL = ["sft", "--model", "base", "--data", "instructions.jsonl", "--output_dir", "full/sft"]
CARD = Device("card", 1 << 30, on_gpu=True)
CHAT = "full/sft/checkpoint"  # has a chat template, which the base lacks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a base model, files, and the SFT of one command in runs/base."""
    folder = tmp_path_factory.mktemp("one-line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base_models.SIZES, "max_position_embeddings", 512)
        patch.chdir(folder)
        base_models.llama(folder / "base")
        base_models.write_inputs(folder)
        tickets = [{"ticket": f"{n}?", "good": "Yes", "bad": "No"} for n in range(9)]
        (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tickets))
        assert align.main(SFT) == 0
        assert align.main([*FULL, "--quick"]) == 0
    return folder


@pytest.fixture
def inside(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def recipe_of(stage, folder=Path("runs/base")):
    return read_recipe(folder / f"{stage}.yaml")


def dry(capsys, *arguments):
    assert align.main([*map(str, arguments), "--dry-run"]) == 0
    return capsys.readouterr().out


def test_the_written_recipe_is_the_one_that_was_trained(inside, capsys):
    recipe, shipped = recipe_of("sft"), read_recipe(Path(__file__).parents[2] / "recipes/lora-1gpu/sft.yaml")
    assert (recipe["model_name_or_path"], recipe["dataset_name"], recipe["max_steps"]) == (
        "base",
        "instructions.jsonl",
        1,
    )
    assert {key: recipe[key] for key in ("lora_r", "learning_rate", "use_peft")} == {
        key: shipped[key] for key in ("lora_r", "learning_rate", "use_peft")
    }
    assert (recipe["max_length"], recipe["warmup_steps"]) == (512, 0)  # the model's context; a tenth of one step
    assert Path("runs/base/sft/checkpoint/adapter_config.json").is_file()
    assert "up to date" in dry(capsys, "sft", "runs/base/sft.yaml")
    assert json.loads(Path("runs/base/pipeline.json").read_text())["stages"]["sft"]["steps"] == 1  # for `align watch`


def test_lora_false_switches_a_recipe_s_adapter_off(inside, capsys):
    run_stage("sft", "runs/base/sft.yaml", dry_run=True)
    assert "up to date" in capsys.readouterr().out
    run_stage("sft", "runs/base/sft.yaml", lora=False, dry_run=True)
    assert "recipe changed: use_peft" in (said := capsys.readouterr().out) and "of them trained" not in said
    with pytest.raises(UserError, match="contradict"):
        run_stage("sft", "runs/base/sft.yaml", lora=False, use_peft=True, dry_run=True)


def test_the_same_command_uses_the_file_with_its_changes(inside, tmp_path, capsys):
    written = Path("runs/base/sft.yaml")
    text = written.read_text()
    assert "up to date" in dry(capsys, *SFT)
    try:
        written.write_text(text.replace("lora_r: 16", "lora_r: 4"))
        assert "recipe changed: lora_r" in dry(capsys, *SFT)
        assert "lora_r: 4" in written.read_text()
    finally:
        written.write_text(text)


def test_another_command_keeps_the_recipe_that_was_there(tmp_path):
    place = Place(tmp_path / "runs/x/sft", None)
    for text in ("a: 1\n", "a: 2\n", "a: 2\n", "a: 3\n"):
        write(place.recipe, text)
    texts = {file.name: file.read_text() for file in (tmp_path / "runs/x").iterdir()}
    assert texts == {"sft-1.yaml": "a: 1\n", "sft-2.yaml": "a: 2\n", "sft.yaml": "a: 3\n"}


def test_without_an_adapter_rates_and_types_are_trl_s(inside):
    assert not {"dtype", "use_peft"} & recipe_of("sft", Path("full")).keys()
    assert recipe_of("sft", Path("full"))["learning_rate"] == 2e-5


def test_a_smoke_run_s_recipe_is_fitted_to_the_whole_data(inside):
    """So that the same command without --quick may use it: two steps would have no warmup at all."""
    recipe = recipe_of("sft", Path("full"))
    assert (recipe["gradient_accumulation_steps"], recipe["warmup_steps"]) == (1, 2)  # 38 rows, 20 steps
    assert "a tenth of the 20 steps" in Path("full/sft.yaml").read_text()


def test_a_command_is_the_same_however_it_is_spelled():
    def command(seed, *words):
        return command_of("sft", {"model": "m", "data": ["d"], "lora": True}, None, seed, list(words))

    assert command(None, "--max_steps", "3", "--lora-r=4") == command(None, "--lora_r=4", "--max-steps=3")
    assert command(None, "--lora_r=4") != command(1, "--lora_r=4")


def test_a_refused_command_leaves_the_recipe_alone(inside, capsys):
    text = Path("runs/base/sft.yaml").read_text()
    assert align.main([*SFT[:-2], "--max_completion_length", "4"]) == 2  # no key of sft
    assert align.main([*SFT, "--max_length", "100000"]) == 2  # beyond the context: found by the check
    assert Path("runs/base/sft.yaml").read_text() == text and not Path("runs/base/sft-1.yaml").exists()


def test_a_dry_run_shows_rows_and_memory(inside, capsys):
    said = dry(capsys, *FULL[:-1], "dry/sft")
    assert "== sft (dry/sft.yaml)" in said and "rows used: 38 train, 2 validation" in said
    assert re.search(r"memory  about \S+ of \S+ GB: fits(.|\n)*libraries \(torch", said) and "--sample" not in said


def test_a_fix_is_an_option_if_there_is_no_recipe(inside, capsys):
    assert align.main([*SFT, "--max_length", "100000"]) == 2
    assert "fix:      --max_length 512" in capsys.readouterr().err
    Path("long").mkdir(exist_ok=True)
    Path("long/sft.yaml").write_text("model_name_or_path: base\ndataset_name: math.jsonl\nmax_length: 100000\n")
    assert align.main(["sft", "long/sft.yaml"]) == 2
    assert "fix:      max_length: 512" in capsys.readouterr().err


def test_settings_in_fixes_become_options():
    def rewritten(fix):
        return in_options([error("it is wrong", fix=fix)], {"max_length", "columns", "eos_token", "use_peft"})[0].fix

    assert (
        rewritten("max_length: 64, use_peft: true; or --no-check") == "--max_length 64 --use_peft true; or --no-check"
    )
    assert rewritten("columns: {txt: text}, if you mean 'text'") == "--columns '{txt: text}', if you mean 'text'"
    assert rewritten("eos_token: '</s>' in the recipe") == "--eos_token '</s>'"
    assert rewritten("set use_peft: true to do so") == "set --use_peft true to do so"
    assert rewritten("chat_template_path: x in the sft recipe") == "chat_template_path: x in the sft recipe"
    assert rewritten(None) is None


def test_a_recipe_of_one_s_own_and_another_model_are_not_replaced(inside, tmp_path, capsys):
    (tmp_path / "sft.yaml").write_text("learning_rate: 1.0e-4\n")
    assert align.main(["sft", "--model", "base", "--data", "math.jsonl", "--output_dir", str(tmp_path / "sft")]) == 2
    assert "no command made" in capsys.readouterr().err
    Path("other").mkdir(exist_ok=True)
    Path("other/base").symlink_to(inside / "base")
    assert align.main(["sft", "--model", "other/base", "--data", "math.jsonl", "--lora"]) == 2
    assert "another model with this name" in capsys.readouterr().err


def test_options_replace_what_a_recipe_would_combine_them_with(inside, capsys):
    Path("mixed").mkdir(exist_ok=True)
    Path("mixed/sft.yaml").write_text("model_name_or_path: base\ndatasets: [{name: math.jsonl}]\nmax_length: 128\n")
    one = ["sft", "mixed/sft.yaml", "--data", "instructions.jsonl", "--no-check"]
    assert "run (not run yet)" in dry(capsys, *one)
    assert "run (not run yet)" in dry(capsys, *one, "--data", "math.jsonl")
    shipped = Path(__file__).parents[2] / "recipes"
    words = [
        "dpo",
        shipped / "lora-1gpu/dpo.yaml",
        "--model",
        CHAT,
        "--data",
        "preferences.jsonl",
        "--max_length",
        "64",
        "--no-check",
    ]
    assert "run (not run yet)" in dry(capsys, *words)  # the recipe's own input is not asked for


def test_a_later_stage_joins_the_run_and_continues_the_adapter(inside):
    words = ["--model", "runs/base/sft/checkpoint", "--data", "preferences.jsonl", "--lora", "--max_steps", "1"]
    assert align.main(["dpo", *words]) == 0
    recipe, record = recipe_of("dpo"), json.loads(Path("runs/base/dpo/stage.json").read_text())
    assert (recipe["model_name_or_path"], record["parent"]) == ("sft", "sft")
    assert "use_peft" not in recipe and recipe["learning_rate"] == 3e-3  # 2e-5 * 4096 / 32, the width
    assert [link["stages"] for link in record["adapter_chain"]["links"]] == [["sft", "dpo"]]


@pytest.mark.parametrize("stage", ["dpo", "reward", "kto", "ppo", "grpo"])
def test_every_stage_of_the_options_has_a_sound_draft(stage, inside, capsys):
    """Three with an adapter, three without: the plan of a dry run, in which nothing is written."""
    Path("labelled.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n}?", "completion": "Yes", "label": n % 2 == 0}) + "\n" for n in range(20))
    )
    data = {"dpo": "preferences", "reward": "preferences", "kto": "labelled"}.get(stage, "math")
    words = [stage, "--model", CHAT, "--data", f"{data}.jsonl", "--output_dir", "elsewhere/x"]
    if stage in ("ppo", "grpo"):
        words += ["--reward", "reward_models.rules:answer_match?column=answer"]
    lora = stage in ("dpo", "kto", "ppo")
    said = dry(capsys, *words, *(["--lora"] if lora else []))
    assert "run (not run yet)" in said and ("use_peft: true" in said) == lora
    assert not Path("elsewhere").exists()


def test_options_stand_for_the_keys_of_a_recipe(inside, capsys):
    """Inputs that a pipeline declares go first: lora-1gpu has an input `model`."""
    shipped = Path(__file__).parents[2] / "recipes"
    said = dry(
        capsys, "sft", shipped / "tiny/sft.yaml", "--model", "base", "--data", "instructions.jsonl", "--no-check"
    )
    assert "base" in said and "run (not run yet)" in said
    files = ["--math", "math.jsonl", "--instructions", "instructions.jsonl", "--max_length", "512"]
    assert "base" in dry(capsys, "sft", shipped / "lora-1gpu/sft.yaml", "--model", "base", *files)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sft"], ["needs a recipe, or a model and data"]),
        (["sft", "--lora"], ["needs --model", "needs --data"]),
        (["ppo", "--model", "base", "--data", "math.jsonl"], ["needs --reward"]),
        (["sft", "--model", "base", "--data", "no.jsonl"], ["no.jsonl"]),
        (["sft", "--model", "base", "--data", "math.jsonl", "--max_stpes", "1"], ["max_stpes", "'max_steps'"]),
        (["sft", "--model", "base", "--data", "math.jsonl", "--lora_r", "4"], ["no effect", "--lora"]),
        (["sft", "--model", "base", "--data", "math.jsonl", "--dataset_name", "x"], ["mean the same"]),
        (["sft", "--model", "base", "--data", "https://u:secret@host/x.jsonl"], ["secret"]),
        (["sft", "--model", "base", "--data", "math.jsonl", "--hub_token", "x" * 9], ["--hub_token", "HF_TOKEN"]),
        (["sft", "--model", "base", "--data", "math.jsonl", "--learning_rate", ".nan"], ["rate is not finite", "nan"]),
        (
            ["dpo", "--model", "base", "--data", "tickets.jsonl"],
            ['fix:      `--columns \'{ticket: "???", good: "???", bad: "???"}\'` (for ??? write prompt'],
        ),
        (["sft", "--model", "bass", "--data", "math.jsonl"], ["bass"]),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(words, expected, inside, capsys):
    before = sorted(Path().rglob("*.yaml"))
    assert align.main([*words, "--output_dir", "wrong/sft"]) == 2
    said = capsys.readouterr()
    assert all(text in said.err for text in expected), said.err
    assert sorted(Path().rglob("*.yaml")) == before and not Path("wrong").exists()


def test_places(inside, tmp_path):
    def place(*arguments):
        found = place_of(*arguments)
        return str(found.folder), found.parent

    assert place("sft", "Qwen/Qwen3-0.6B", None) == ("runs/Qwen3-0.6B/sft", None)
    assert place("sft", "base/", None) == ("runs/base/sft", None)
    assert place("dpo", "runs/base/sft/checkpoint", None) == ("runs/base/dpo", "sft")
    assert place("dpo", "runs/base/sft/checkpoint", "runs/base/brief") == ("runs/base/brief", "sft")
    assert place("dpo", "runs/base/sft/checkpoint", str(tmp_path / "b")) == (str(tmp_path / "b"), None)
    assert place("sft", "runs/base/sft/checkpoint", None) == ("runs/base/sft2", "sft")  # not in its parent's place
    assert place("sft", "runs/base/sft", "runs/base/sft") == ("runs/base/sft", None)
    assert place("sft", "base", None, True) == ("runs/base-quick/sft", None)  # not in a real run's place
    assert place("sft", "base", ".") == (str(inside), None)
    with pytest.raises(UserError, match="no folder for a stage"):
        place("sft", "base", "/")


def test_a_recipe_goes_into_a_stage_folder_that_lies_among_other_files(inside, tmp_path, monkeypatch):
    def recipe(folder):
        return Place(Path(folder), None).recipe

    assert recipe("out") == Path("out/recipe.yaml")  # not into the working folder
    assert recipe("runs/new/sft") == Path("runs/new/sft.yaml") and recipe("runs/base/x") == Path("runs/base/x.yaml")
    (tmp_path / "notes.txt").touch()
    assert recipe(tmp_path / "out") == tmp_path / "out/recipe.yaml"
    (tmp_path / "pipeline.json").touch()
    assert recipe(tmp_path / "out") == tmp_path / "out.yaml"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/recipe.yaml").touch()
    assert recipe(tmp_path / "out") == tmp_path / "out/recipe.yaml"  # where it was before


def test_rewards_are_functions_or_one_model(inside):
    assert recipe_keys({"reward": ["a.b:c"]}) == {"reward_funcs": ["a.b:c"]}
    assert recipe_keys({"reward": ["base", "a.b:c"]}) == {"reward_model_path": "base", "reward_funcs": ["a.b:c"]}
    with pytest.raises(UserError, match="several reward models"):
        recipe_keys({"reward": ["base", "m/other"]})


@pytest.fixture
def drafted(inside, monkeypatch):
    """A function that makes a draft for a device of a memory in bytes, with options and recipe keys of the user."""
    made = []
    real = fitting.fit

    def fitted(device, words):
        def fit(draft, material, _, configs, recipes):
            real(draft, material, device, configs, recipes)
            made.append((draft, material, configs))

        monkeypatch.setattr(fitting, "fit", fit)
        assert align.main([*words, "--output_dir", "never/x", "--dry-run", "--no-check"]) == 0
        return made[-1]

    return fitted


def test_batches_shrink_to_the_memory_and_steps_stay_equal(drafted, monkeypatch):
    words = ["sft", "--model", "base", "--data", "many.jsonl", "--lora"]
    rows = [json.dumps({"question": f"What is {n}?", "answer": "Red."}) + "\n" for n in range(500)]
    Path("many.jsonl").write_text("".join(rows))
    ample, material, configs = drafted(Device("ample", 1 << 40), words)
    assert (ample.recipe["per_device_train_batch_size"], ample.recipe["gradient_accumulation_steps"]) == (4, 4)

    def needed(micro, **more):
        recipe = ample.recipe | {"per_device_train_batch_size": micro} | more
        return fitting._estimate(recipe, material, Device("", 1 << 40), configs).total_memory

    between = Device("between", round(needed(2) / SAFE_SHARE) + 1)
    batch = drafted(between, words)[0].recipe
    assert (batch["per_device_train_batch_size"], batch["gradient_accumulation_steps"]) == (2, 8)
    batch = drafted(Device("small", 1 << 20), words)[0].recipe  # nothing fits: the check before the run says so
    assert (batch["per_device_train_batch_size"], batch["activation_checkpointing"]) == (1, True)
    checkpointed = drafted(Device("small", 1 << 20), [*words, "--gradient_accumulation_steps", "4"])[0].recipe
    assert checkpointed["activation_checkpointing"] is True  # also if the batch is the user's
    kept = drafted(Device("small", 1 << 20), [*words, "--per_device_train_batch_size", "3"])[0].recipe
    assert kept["per_device_train_batch_size"] == 3 and kept["gradient_accumulation_steps"] == 4


def test_kto_and_ppo_keep_what_belongs_to_the_method(drafted):
    """KTO's KL is estimated from a micro-batch of at least two; PPO's rollout does not change with the micro-batch."""
    small = Device("small", 1 << 20)
    kto = drafted(small, ["kto", "--model", CHAT, "--data", "preferences.jsonl"])[0].recipe
    assert kto["per_device_train_batch_size"] == 2
    reward = ["--reward", "reward_models.rules:answer_match?column=answer"]
    ppo = drafted(small, ["ppo", "--model", CHAT, "--data", "math.jsonl", *reward])[0].recipe
    assert ppo["per_device_train_batch_size"] * ppo["steps_per_generation"] == 4 * 16
    assert ppo["per_device_train_batch_size"] * ppo["gradient_accumulation_steps"] == 4 * 8


def test_a_base_that_does_not_fit_is_quantised(drafted, monkeypatch):
    """With the batch that fits then, and not with what was tried in 16 bits."""
    monkeypatch.setattr(fitting, "missing_for_quantization", list)
    real = fitting._estimate

    def only_in_4_bit(recipe, *rest):
        return replace(real(recipe, *rest), memory={"": 1 if recipe.get("load_in_4bit") else 1 << 40}, device=CARD)

    monkeypatch.setattr(fitting, "_estimate", only_in_4_bit)
    made = drafted(CARD, ["sft", "--model", "base", "--data", "math.jsonl", "--lora"])[0]
    assert made.recipe["load_in_4bit"] and made.recipe["optim"] == "paged_adamw_8bit"
    assert made.recipe["per_device_train_batch_size"] == 4 and "activation_checkpointing" not in made.recipe
    assert "load_in_4bit: true # the base in 4 bit" in recipe_text([], made)


def test_long_rows_raise_max_length(drafted, inside):
    rows = [{"question": "word " * (40 if n % 2 else 4), "answer": "yes " * 60} for n in range(30)]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = drafted(Device("", 1 << 40), ["sft", "--model", "base", "--data", "long.jsonl", "--lora"])[0]
    assert made.recipe["max_length"] == 512 and made.reasons["max_length"] == "the model's context"
    made = drafted(Device("", 1 << 40), ["sft", "--model", "base", "--data", "long.jsonl", "--max_length", "64"])[0]
    assert made.recipe["max_length"] == 64


def test_few_rows_make_the_batch_smaller_and_then_the_epochs_more():
    """In every stage, also in those with a reference; the user's own batch and epochs are kept."""

    def fitted(stage, rows, **chosen):
        lora = Path(__file__).parents[2] / "recipes/lora-1gpu"
        made = draft(stage, lora, {}, new_adapter=True, continued=False, chosen=chosen)
        fitting.fit_steps(made, SimpleNamespace(trained=rows))
        return made.recipe["gradient_accumulation_steps"], made.recipe["num_train_epochs"]

    assert fitted("dpo", 82) == fitted("reward", 82) == (1, 2)  # 82 steps instead of 6
    assert fitted("dpo", 100) == (1, 1) and fitted("dpo", 200) == (2, 1) and fitted("dpo", 1200) == (8, 1)
    assert fitted("kto", 82) == (1, 2) and fitted("sft", 82) == (1, 2) and fitted("sft", 600) == (4, 2)
    assert fitted("dpo", 82, gradient_accumulation_steps=8, num_train_epochs=1) == (8, 1)
    assert fitted("dpo", 82, max_steps=10) == (8, 1)


def test_few_steps_are_reported(inside, monkeypatch, capsys, caplog):
    monkeypatch.setattr(fitting, "fit", lambda made, *rest: 6)
    words = ["dpo", "--model", CHAT, "--data", "preferences.jsonl", "--output_dir", "few/dpo", "--no-check"]
    dry(capsys, *words, "--lora")
    assert "6 optimizer steps (38 rows) are too few to change a model much" in caplog.text
    assert "--num_train_epochs 4, or a higher --learning_rate than 2e-05" in caplog.text
    caplog.clear()
    dry(capsys, *words, "--max_steps", "6")
    assert "too few" not in caplog.text


def test_the_batch_of_a_stage_that_samples_is_counted_in_completions():
    def said(stage, **settings):
        facts = SimpleNamespace(facts=STAGES[stage], get=lambda name, default=None: settings.get(name, default))
        return fitting._per_step({}, facts, 64)

    assert said("sft") == "64 rows" and said("ppo") == "64 completions"
    assert said("grpo", num_generations=8) == "64 completions, of 8 prompts,"


def test_without_rows_to_hold_out_nothing_is_evaluated(tmp_path):
    lora = Path(__file__).parents[2] / "recipes/lora-1gpu"
    (tmp_path / "rows.jsonl").touch()

    def strategy(stage="sft", **chosen):
        given = {"dataset_name": str(tmp_path / "rows.jsonl")}
        return draft(stage, lora, given, new_adapter=True, continued=False, chosen=chosen).recipe.get("eval_strategy")

    assert strategy(eval_share=0) == "no" and strategy("ppo", eval_share=0) is None
    assert strategy() == strategy(eval_share=0, dataset_test_split="test") == "epoch"
    assert strategy(eval_share=0, eval_strategy="steps") == "steps"  # the check refuses it


def test_a_base_without_a_template_is_sent_to_sft_first():
    words = base_models.tokenizer()
    assert "run `align sft --model 'my base' --data CONVERSATIONS.jsonl --lora` first" in (
        find_unusable(words, "my base", adapter=True)[0].fix
    )
    assert find_unusable(words)[0].fix.startswith("chat_template_path: FILE.jinja in the sft recipe")


def test_rows_that_are_all_too_long_are_explained_in_a_sentence():
    rows = [RowLength(100, 90), RowLength(80, 70)]
    assert length_fix(rows, 64, 64).startswith("shorter rows, or a model with a longer context")
    assert length_fix(rows, 128, 64).startswith("max_length: 64, and shorter rows, or a model")
