"""lm-eval's packaged tasks on local rows with the hub's columns, and on the hub without data."""

import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from alignment.errors import UserError
from eval.harness.run_suite import evaluate
from eval.harness.suite import list_suites, load_suite, suite_digest, suite_formats, suite_name

PAIR = {"sentence_good": "The fox sees her.", "sentence_bad": "The fox see her."}
OPTIONS = {"text": ["a fox", "a hat", "a hen", "a cup"], "label": ["A", "B", "C", "D"]}
SCIENCE = {"id": "q1", "question": "What runs?", "choices": OPTIONS, "answerKey": "C"}
SCENE = {
    "ctx_a": "A hen walks.",
    "ctx_b": "it",
    "activity_label": "Walking",
    "endings": ["sits.", "[step] runs.", "flies.", "sleeps."],
    "label": "2",
}
SUBJECT = {"question": "What is red?", "choices": ["hat", "cup", "hen", "fox"], "answer": 1}
TRUTH = {
    "question": "Who barks?",
    "mc1_targets": {"choices": ["The dog.", "The cat."], "labels": [1, 0]},
    "mc2_targets": {"choices": ["The dog.", "A dog.", "The cat."], "labels": [1, 1, 0]},
}
# suite -> (file in the data folder, row, the item's prompt or None, its target, what the metric is called)
ROWS = {
    "blimp": ("causative.jsonl", PAIR, "", 0, "acc"),
    "arc_easy": ("ARC-Easy.jsonl", SCIENCE, "Question: What runs?\nAnswer:", 2, "acc"),
    "arc_challenge": ("test.jsonl", SCIENCE, "Question: What runs?\nAnswer:", 2, "acc_norm"),
    "hellaswag": ("validation.jsonl", SCENE, "Walking: A hen walks. It", 2, "acc_norm"),
    "mmlu": (
        "anatomy.jsonl",
        SUBJECT,
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "What is red?\nA. hat\nB. cup\nC. hen\nD. fox\nAnswer:",
        1,
        "acc",
    ),
    "truthfulqa": ("validation.jsonl", TRUTH, None, 0, "acc"),
    "bbh": ("navigate.jsonl", {"input": "Turn left. Options:\n- Yes\n- No", "target": "No"}, None, "No", "exact_match"),
    "lambada": ("test.jsonl", {"text": "the fox saw the hen"}, "the fox saw the", " hen", "perplexity"),
    "gsm8k": ("test.jsonl", {"question": "What is 2 + 2?", "answer": "It is 4.\n#### 4"}, None, None, "exact_match"),
}


def write(file: Path, *rows: dict) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("suite", ROWS)
def test_local_rows_in_the_columns_of_the_hub(suite, tmp_path, long_model, tokenizer):
    name, row, prompt, target, metric = ROWS[suite]
    write(tmp_path / "data" / name, row, row | {"id": "q2"} if "id" in row else row)
    spec = f"{suite}?data={tmp_path / 'data'}&num_fewshot=0&max_gen_toks=8"
    record = evaluate("unsaved", spec, "plain", tmp_path / "run", loaded=(long_model, tokenizer))
    task = next(iter(load_suite(spec, "plain").tasks.values()))
    doc = task.eval_docs[0]
    found = task.build_all_requests(limit=1) or task.instances[0].args[0]
    assert prompt is None or found == prompt
    assert target is None or task.doc_to_target(doc) == target
    assert metric in {row["metric"].partition(",")[0] for row in record["tasks"]}
    assert all(row["n"] == 2 for row in record["tasks"])


def test_every_packaged_suite_is_tested():
    assert set(ROWS) | {"core"} == {
        name for name in list_suites() if (Path(__file__).parents[3] / "eval/suites" / name / "packaged.yaml").exists()
    }


@pytest.mark.parametrize("format", ["plain", "chat"])
def test_gsm8k_matches_strictly_and_flexibly(tmp_path, format):
    file = write(tmp_path / "mine.jsonl", {"question": "What is 2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"})
    (task,) = load_suite(f"gsm8k?data={file}&num_fewshot=0", format).tasks.values()
    replies = {"so\n#### 4": (1.0, 1.0), "The answer is 4": (0.0, 1.0), "It is 5.": (0.0, 0.0)}
    for reply, expected in replies.items():
        task.build_all_requests(limit=1)
        task.instances[0].resps = [reply]
        task.apply_filters()
        found = task.instances[0].filtered_resps
        scores = [
            task.process_results(task.eval_docs[0], [found[name]])["exact_match"]
            for name in ("strict-match", "flexible-extract")
        ]
        assert tuple(scores) == expected, reply


def test_a_folder_with_some_of_the_paradigms(tmp_path, model, tokenizer, caplog):
    """Each file is a task, with lm-eval's name if there is one, and the group's figure is their macro mean."""
    write(tmp_path / "data" / "README.md", {"no": "rows"})
    for name, count in [("causative", 1), ("passive_2", 2), ("my_pairs", 3)]:
        write(tmp_path / "data" / f"{name}.jsonl", *[PAIR] * count)
    with caplog.at_level(logging.INFO, logger="eval"):
        record = evaluate(
            "unsaved", f"blimp?data={tmp_path / 'data'}", "plain", tmp_path / "run", loaded=(model, tokenizer)
        )
    counts = {row["task"]: row["n"] for row in record["tasks"]}
    assert counts == {"blimp_causative": 1, "blimp_passive_2": 2, "blimp_my_pairs": 3, "blimp": 6}
    (line,) = [line.message for line in caplog.records if "no rows for" in line.message]
    assert "no rows for 65 of 67 tasks: blimp_adjunct_island" in line and " and 62 more; evaluated: " in line
    assert len(line) < 300


def test_mmlu_of_one_file_and_of_folders(tmp_path, caplog):
    rows = [SUBJECT | {"subject": subject} for subject in ("anatomy", "anatomy", "virology", "magic", "magic")]
    file = write(tmp_path / "all.jsonl", *rows)
    suite = load_suite(f"mmlu?data={file}", "plain")
    assert "2 rows have a subject that is no task, and are left out: magic (2)" in caplog.text
    assert {name: len(task.eval_docs) for name, task in suite.tasks.items()} == {"mmlu_anatomy": 2, "mmlu_virology": 1}
    assert set(suite.groups) == {"mmlu", "mmlu_stem", "mmlu_other"}

    for split, question in [("dev", "What is blue?"), ("test", "What is red?")]:
        write(tmp_path / "folders" / "anatomy" / f"{split}.jsonl", SUBJECT | {"question": question})
    (task,) = load_suite(f"mmlu?data={tmp_path / 'folders'}&num_fewshot=1", "plain").tasks.values()
    task.build_all_requests()
    shown = task.instances[0].args[0]
    assert [part.split("\n")[0] for part in shown.split("\n\n")[1:]] == ["What is blue?", "What is red?"]


def test_data_for_no_task(tmp_path):
    write(tmp_path / "data" / "other.jsonl", SUBJECT)
    with pytest.raises(UserError, match="No task of the suite"):
        load_suite(f"mmlu?data={tmp_path / 'data'}", "plain")
    with pytest.raises(UserError, match="does not exist"):
        load_suite(f"mmlu?data={tmp_path / 'nowhere'}", "plain")


def test_the_core_is_the_mean_of_centred_scores(tmp_path, model, tokenizer):
    write(tmp_path / "data/hellaswag.jsonl", *[SCENE | {"label": str(k % 4)} for k in range(8)])
    write(tmp_path / "data/ARC-Easy.jsonl", *[SCIENCE | {"id": f"q{k}", "answerKey": "ABCD"[k % 4]} for k in range(8)])
    write(tmp_path / "data/lambada_openai.jsonl", *[{"text": f"the fox saw the {word}"} for word in ("hen", "owl")])
    record = evaluate("unsaved", f"core?data={tmp_path / 'data'}", "plain", tmp_path, loaded=(model, tokenizer))
    *_, core = record["tasks"]
    value = {(row["task"], row["metric"]): row for row in record["tasks"]}
    parts = [value["hellaswag", "acc_norm"], value["arc_easy", "acc"], value["lambada_openai", "acc"]]
    assert [part["chance"] for part in parts] == [0.25, 0.25, 0.0]
    assert (core["task"], core["members"]) == ("core", ["hellaswag", "arc_easy", "lambada_openai"])
    centred = [(part["value"] - part["chance"]) / (1 - part["chance"]) for part in parts]
    assert core["value"] == pytest.approx(sum(centred) / 3)
    errors = [part["se"] / (1 - part["chance"]) for part in parts]
    assert core["se"] == pytest.approx(sum(error**2 for error in errors) ** 0.5 / 3)
    if core["se"]:
        assert core["ci_low"] < core["value"] < core["ci_high"] and 0 < core["df"] <= 7 + 7 + 1


def test_without_data_rows_come_from_the_hub(monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, name=None, **_):
        asked.append((path, name))
        rows = Dataset.from_list([SCIENCE])
        return DatasetDict(dict.fromkeys(("train", "validation", "test"), rows))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (task,) = load_suite("arc_easy", "plain").tasks.values()
    assert asked == [("allenai/ai2_arc", "ARC-Easy")] and task.eval_docs[0]["id"] == "q1"


def test_the_digest_depends_on_the_rows_not_on_their_path(tmp_path):
    one, other = write(tmp_path / "a.jsonl", SCIENCE), write(tmp_path / "b.jsonl", SCIENCE)
    digests = [suite_digest(load_suite(f"arc_easy?data={file}", "plain")) for file in (one, other)]
    write(other, SCIENCE | {"answerKey": "A"})
    digests.append(suite_digest(load_suite(f"arc_easy?data={other}", "plain")))
    assert digests[0] == digests[1] != digests[2]


def test_names_and_formats_of_suites_with_options():
    assert suite_name("text?data=a/b/input.txt") == "text-input" and suite_name("blimp?data=x/blimp") == "blimp"
    assert suite_name("gsm8k?num_fewshot=0&data=a b.jsonl") == "gsm8k-a_b-num_fewshot-0"
    assert suite_formats("blimp?data=x") == ("plain",) and suite_formats("gsm8k?data=x") == ("plain", "chat")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [("gsm8k?data", "has no value"), ("gsm8k?poeple=3", "Unknown option"), ("text?split=test", "needs data")],
)
def test_invalid_options(spec, problem):
    with pytest.raises(UserError, match=problem):
        load_suite(spec, "plain")


def test_a_task_of_lm_eval_on_local_rows(tmp_path, monkeypatch):
    """`lm_eval:TASK?data=` reaches every packaged task; here only one folder is scanned, since all take 15 seconds."""
    from eval.harness import packaged

    manager = packaged.task_manager
    monkeypatch.setattr(packaged, "task_manager", lambda folders, metadata: manager(["sciq"], metadata))
    row = {"question": "What runs?", "support": "A fox runs.", "correct_answer": "a fox"}
    file = write(tmp_path / "sciq.jsonl", row | {f"distractor{k}": f"a hat {k}" for k in (1, 2, 3)})
    (task,) = load_suite(f"lm_eval:sciq?data={file}", "plain").tasks.values()
    assert task.doc_to_choice(task.eval_docs[0])[3] == "a fox"
