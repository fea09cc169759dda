"""Public suites on the files that their authors publish: the prompts, choices and targets of the hub's rows."""

import csv
import io
import json

import pytest
from datasets import Dataset, DatasetDict

from alignment.errors import UserError
from eval.harness import packaged
from eval.harness.run_suite import evaluate
from eval.harness.suite import load_suite

OPTIONS = [("A", "a fox"), ("B", "a hat"), ("C", "a hen"), ("D", "a cup")]
CHOICES = {"text": [text for _, text in OPTIONS], "label": [label for label, _ in OPTIONS]}
FIVE = {"text": [*CHOICES["text"], "an owl"], "label": list("ABCDE")}
NUMBERED = {"text": CHOICES["text"], "label": ["1", "2", "3", "4"]}


def stem(question, key, labels=CHOICES["label"], **more):
    choices = [{"text": text, "label": label} for text, label in zip(FIVE["text"], labels, strict=False)]
    return {"id": question, "question": {"stem": question, "choices": choices, **more}, "answerKey": key}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(*rows):
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


SCENE = {
    "activity_label": "Walking",
    "ctx_a": "A hen walks.",
    "ctx_b": "it",
    "ctx": "A hen walks. it",
    "endings": ["sits.", "[step] runs.", "flies.", "sleeps."],
}
CORRECT, INCORRECT = ["The dog.", "A dog"], ["The cat.", "A stone"]
TRUTH = {
    "question": "Who barks?",
    "mc1_targets": {"choices": ["The dog.", *INCORRECT], "labels": [1, 0, 0]},
    "mc2_targets": {"choices": [*CORRECT, *INCORRECT], "labels": [1, 1, 0, 0]},
}
PIQA = [{"goal": f"see {n}", "sol1": f"look at {n}", "sol2": "sleep"} for n in ("red", "blue", "two")]
WINO = {"sentence": "The hen saw the fox and _ ran.", "option1": "hen", "option2": "fox", "answer": "2"}
BOOLQ = {"question": "is red a colour", "passage": "Red is a colour."}
RACE = {"questions": ["What is red?", "Who ran?"], "options": [CHOICES["text"]] * 2, "answers": ["B", "C"]}
MATHS = {"question": "What is 2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}

# name -> (task or suite, folder of lm-eval's tasks, the authors' files, `data`, the hub's rows)
FILES = {
    "bbh": (
        "bbh_zeroshot_navigate",
        "bbh/zeroshot",
        {
            "bbh/navigate.json": json.dumps(
                {"canary": "x", "examples": [{"input": f"Turn {n}.", "target": "No"} for n in "ab"]}
            )
        },
        "bbh/navigate.json",
        [{"input": f"Turn {n}.", "target": "No"} for n in "ab"],
    ),
    "truthfulqa.csv": (
        "truthfulqa_mc1",
        "truthfulqa",
        {
            "TruthfulQA.csv": table(
                ("Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"),
                ("A", "M", "Who barks?", "The dog.", "; ".join(CORRECT), "; ".join(INCORRECT), "x"),
            )
        },
        "TruthfulQA.csv",
        [TRUTH],
    ),
    "truthfulqa mc_task.json": (
        "truthfulqa_mc1",
        "truthfulqa",
        {
            "mc_task.json": json.dumps(
                [
                    {
                        "question": "Who barks?",
                        "mc1_targets": {"The dog.": 1, "The cat.": 0, "A stone": 0},
                        "mc2_targets": {"The cat.": 0, "The dog.": 1, "A dog": 1, "A stone": 0},
                    }
                ]
            )
        },
        "mc_task.json",
        [TRUTH],
    ),
    "openbookqa": (
        "openbookqa",
        "openbookqa",
        {"test.jsonl": lines(stem("What runs?", "A"), stem("What sits?", "B"))},
        "test.jsonl",
        [
            {"id": q, "question_stem": q, "choices": CHOICES, "answerKey": k}
            for q, k in [("What runs?", "A"), ("What sits?", "B")]
        ],
    ),
    "arc": (
        "arc_easy",
        "arc",
        {"ARC-Easy-Test.jsonl": lines(stem("What runs?", "C"), stem("What sits?", "2", NUMBERED["label"]))},
        "ARC-Easy-Test.jsonl",
        [
            {"id": "What runs?", "question": "What runs?", "choices": CHOICES, "answerKey": "C"},
            {"id": "What sits?", "question": "What sits?", "choices": NUMBERED, "answerKey": "2"},
        ],
    ),
    "arc folder": (
        "arc_challenge",
        "arc",
        {
            f"ARC-Challenge/ARC-Challenge-{split}.{kind}": lines(stem(f"What runs in {split}?", "C"))
            if kind == "jsonl"
            else "x,y\n1,2\n"
            for split in ("Train", "Dev", "Test")
            for kind in ("jsonl", "csv")
        },
        ".",
        [{"id": "What runs in Test?", "question": "What runs in Test?", "choices": CHOICES, "answerKey": "C"}],
    ),
    "commonsenseqa": (
        "commonsense_qa",
        "commonsense_qa",
        {"dev.jsonl": lines(stem("What runs?", "D", "ABCDE", question_concept="run"))},
        "dev.jsonl",
        [{"question": "What runs?", "question_concept": "run", "choices": FIVE, "answerKey": "D"}],
    ),
    "hellaswag": (
        "hellaswag",
        "hellaswag",
        {"hellaswag_val.jsonl": lines(SCENE | {"label": 2}, {**SCENE, "label": 0, "ctx_b": None})},
        "hellaswag_val.jsonl",
        [SCENE | {"label": "2"}, SCENE | {"label": "0", "ctx_b": ""}],
    ),
    "piqa": (
        "piqa",
        "piqa",
        {"valid.jsonl": lines(*PIQA), "valid-labels.lst": "0\n1\n0\n"},
        "valid.jsonl",
        [row | {"label": label} for row, label in zip(PIQA, (0, 1, 0), strict=True)],
    ),
    "piqa folder": (
        "piqa",
        "piqa",
        {
            "dev.jsonl": lines(*PIQA),
            "dev-labels.lst": "0\n1\n0\n",
            "train.jsonl": lines(*PIQA),
            "train-labels.lst": "1\n1\n1\n",
            "test.jsonl": lines(*PIQA),
        },
        ".",
        [row | {"label": label} for row, label in zip(PIQA, (0, 1, 0), strict=True)],
    ),
    "piqa csv": (
        "piqa",
        "piqa",
        {"piqa.csv": table(("goal", "sol1", "sol2", "label"), *[(*row.values(), "1") for row in PIQA])},
        "piqa.csv",
        [row | {"label": 1} for row in PIQA],
    ),
    "mmlu": (
        "mmlu_anatomy",
        "mmlu/default",
        {
            "test/anatomy_test.csv": table(
                ("What, then, is red?", *CHOICES["text"], "B"), ("2", "2", "3", "4", "5", "D")
            ),
            "dev/anatomy_dev.csv": table(("What is blue?", *CHOICES["text"], "A")),
            "test/virology_test.csv": table(("What is a virus?", *CHOICES["text"], "B")),
        },
        ".",
        [
            {"question": "What, then, is red?", "subject": "anatomy", "choices": CHOICES["text"], "answer": 1},
            {"question": "2", "subject": "anatomy", "choices": ["2", "3", "4", "5"], "answer": 3},
        ],
    ),
    "mmlu with a header": (
        "mmlu_anatomy",
        "mmlu/default",
        {"anatomy.csv": table(("question", "A", "B", "C", "D", "answer"), ("What is red?", *CHOICES["text"], "C"))},
        "anatomy.csv",
        [{"question": "What is red?", "subject": "anatomy", "choices": CHOICES["text"], "answer": 2}],
    ),
    "mmlu with choices as JSON": (
        "mmlu_anatomy",
        "mmlu/default",
        {"anatomy.csv": table(("question", "choices", "answer"), ("What is red?", json.dumps(CHOICES["text"]), "2"))},
        "anatomy.csv",
        [{"question": "What is red?", "subject": "anatomy", "choices": CHOICES["text"], "answer": 2}],
    ),
    "mmlu with a subject": (
        "mmlu_anatomy",
        "mmlu/default",
        {
            "mmlu.csv": table(
                ("question", "A", "B", "C", "D", "answer", "subject"),
                ("What is red?", *CHOICES["text"], "C", "anatomy"),
            )
        },
        "mmlu.csv",
        [{"question": "What is red?", "subject": "anatomy", "choices": CHOICES["text"], "answer": 2}],
    ),
    "winogrande with numbers": (
        "winogrande",
        "winogrande",
        {"dev.jsonl": lines(WINO | {"answer": 2}, WINO | {"answer": 1})},
        ".",
        [WINO, WINO | {"answer": "1"}],
    ),
    "truthfulqa with the true answer last": (
        "truthfulqa_mc1",
        "truthfulqa",
        {"mc.jsonl": lines(TRUTH | {"mc1_targets": {"choices": [*INCORRECT, "The dog."], "labels": [0, 0, 1]}})},
        "mc.jsonl",
        [TRUTH],
    ),
    "hellaswag with text labels": (
        "hellaswag",
        "hellaswag",
        {"val.jsonl": lines({**SCENE, "label": "1", "ctx_b": None}, SCENE | {"label": "2"})},
        "val.jsonl",
        [SCENE | {"label": "1", "ctx_b": ""}, SCENE | {"label": "2"}],
    ),
    "race in text files": (
        "race",
        "race",
        {"test/high/1.txt": json.dumps({"id": "1", "article": "Red ran.", **RACE}), "README": "x"},
        "test/high",
        [
            {
                "article": "Red ran.",
                "problems": str(
                    [
                        {"question": q, "answer": a, "options": CHOICES["text"]}
                        for q, a in zip(RACE["questions"], RACE["answers"], strict=True)
                    ]
                ),
            }
        ],
    ),
    "gsm8k folder": (
        "gsm8k",
        "gsm8k",
        {
            "test.jsonl": lines(MATHS),
            "test_socratic.jsonl": lines(MATHS | {"question": "Socratic?"}),
            "train.jsonl": lines(MATHS),
        },
        ".",
        [MATHS],
    ),
    "piqa folder with a licence": (
        "piqa",
        "piqa",
        {"rows.jsonl": lines(PIQA[0] | {"label": 1}), "LICENSE.txt": "free\n", "notes.md": "# x\n"},
        ".",
        [PIQA[0] | {"label": 1}],
    ),
    "lambada folder": (
        "lambada_openai",
        "lambada",
        {
            "lambada_test.jsonl": lines({"text": "the fox saw the hen"}),
            "lambada_test_de.jsonl": lines({"text": "der Fuchs sah"}),
            "lambada_test_fr.jsonl": lines({"text": "le renard vit"}),
        },
        ".",
        [{"text": "the fox saw the hen"}],
    ),
    "lambada with spaces": (
        "lambada_openai",
        "lambada",
        {"test.txt": "the fox saw the hen \r\n\n"},
        "test.txt",
        [{"text": "the fox saw the hen"}],
    ),
    "shards": (
        "gsm8k",
        "gsm8k",
        {f"test-0000{n}-of-00002.jsonl": lines(MATHS | {"question": f"{n}?"}) for n in (0, 1)},
        ".",
        [MATHS | {"question": "0?"}, MATHS | {"question": "1?"}],
    ),
    "arc without ids": (
        "arc_easy",
        "arc",
        {"test.jsonl": lines({k: v for k, v in stem("What runs?", "C").items() if k != "id"}, stem("What?", "A"))},
        "test.jsonl",
        [{"question": q, "choices": CHOICES, "answerKey": k} for q, k in [("What runs?", "C"), ("What?", "A")]],
    ),
    "winogrande": (
        "winogrande",
        "winogrande",
        {"dev.jsonl": lines({"qID": "1", **WINO}), "test.jsonl": lines({key: WINO[key] for key in list(WINO)[:3]})},
        ".",
        [WINO],
    ),
    "boolq": (
        "boolq",
        "super_glue/boolq",
        {"dev.jsonl": lines({"title": "Red", "answer": True, **BOOLQ}, {"title": "Red", "answer": False, **BOOLQ})},
        "dev.jsonl",
        [BOOLQ | {"passage": "Red -- Red is a colour.", "idx": idx, "label": 1 - idx} for idx in (0, 1)],
    ),
    "race": (
        "race",
        "race",
        {"high.jsonl": lines({"id": "1", "article": "Red ran.", **RACE})},
        "high.jsonl",
        [
            {
                "article": "Red ran.",
                "problems": str(
                    [
                        {"question": q, "answer": a, "options": CHOICES["text"]}
                        for q, a in zip(RACE["questions"], RACE["answers"], strict=True)
                    ]
                ),
            }
        ],
    ),
    "lambada": (
        "lambada_openai",
        "lambada",
        {"lambada_test_plain_text.txt": "the fox saw the hen\nthe hen saw the owl\n"},
        "lambada_test_plain_text.txt",
        [{"text": "the fox saw the hen"}, {"text": "the hen saw the owl"}],
    ),
    "gsm8k": ("gsm8k", "gsm8k", {"test.jsonl": lines(MATHS)}, "test.jsonl", [MATHS]),
    "blimp": (
        "blimp_causative",
        "blimp",
        {
            "causative.jsonl": lines(
                {"sentence_good": "It runs.", "sentence_bad": "It run.", "field": "syntax", "UID": "causative"}
            )
        },
        ".",
        [{"sentence_good": "It runs.", "sentence_bad": "It run."}],
    ),
}


@pytest.fixture
def tasks_in(monkeypatch):
    """Make `lm_eval:TASK` scan one folder of lm-eval's tasks, since all take 15 seconds; `rows` are the hub's."""
    manager = packaged.task_manager

    def scan(folder, rows=None):
        monkeypatch.setattr(packaged, "task_manager", lambda folders, metadata: manager([folder], metadata))
        splits = dict.fromkeys(("train", "validation", "test", "dev"), Dataset.from_list(rows or [{"x": 1}]))
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: DatasetDict(splits))

    return scan


def put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def requests_of(spec, columns):
    """(request arguments, target, values of some columns) of every item."""
    (task,) = load_suite(spec, "plain", num_fewshot=0).tasks.values()
    task.build_all_requests()
    prompts = [[text for text in instance.args if isinstance(text, str)] for instance in task.instances]
    docs = list(task.task_docs)
    return prompts, [task.doc_to_target(doc) for doc in docs], [[doc[name] for name in columns] for doc in docs]


@pytest.mark.parametrize("name", FILES)
def test_authors_files_give_the_requests_and_targets_of_the_hubs_rows(name, tasks_in, tmp_path):
    task, folder, files, data, rows = FILES[name]
    put(tmp_path, files)
    tasks_in(folder, rows)
    columns = rows[0].keys() - {"idx", "subject"}  # no task reads these
    hub = requests_of(f"lm_eval:{task}", columns)
    assert requests_of(f"lm_eval:{task}?data={tmp_path / data}", columns) == hub
    assert hub[0]


@pytest.mark.parametrize("name", ["piqa", "openbookqa", "truthfulqa mc_task.json", "bbh", "boolq"])
def test_authors_files_give_the_scores_of_the_hubs_rows(name, tasks_in, tmp_path, long_model, tokenizer):
    task, folder, files, data, rows = FILES[name]
    put(tmp_path, files)
    tasks_in(folder, rows)
    found = []
    for spec in (f"lm_eval:{task}", f"lm_eval:{task}?data={tmp_path / data}"):
        spec += "&max_gen_toks=4" if "?" in spec else "?max_gen_toks=4"
        record = evaluate("unsaved", spec, "plain", tmp_path / "run", loaded=(long_model, tokenizer))
        found.append([(row["task"], row["metric"], row["value"], row["n"]) for row in record["tasks"]])
    assert found[0] == found[1]


def test_few_shot_examples_come_from_the_training_files(tasks_in, tmp_path):
    task, folder, files, _, _ = FILES["piqa folder"]
    put(tmp_path, files | {"train.jsonl": lines(*[row | {"goal": f"train {row['goal']}"} for row in PIQA])})
    tasks_in(folder)
    (loaded,) = load_suite(f"lm_eval:{task}?data={tmp_path}&num_fewshot=2", "plain").tasks.values()
    loaded.set_fewshot_seed(0)
    loaded.build_all_requests()
    assert all(instance.args[0].count("Question: train see") == 2 for instance in loaded.instances)


# (task, folder, file, its text) -> what the refusal names
REFUSED = [
    ("piqa", "piqa", "valid.jsonl", lines(*PIQA), "no column label"),
    ("piqa", "piqa", "x.jsonl", lines({"goal": "see", "label": 0}), "no column sol1, sol2"),
    ("piqa", "piqa", "x.jsonl", lines(PIQA[0] | {"label": 2}), "target 2 is none of the 2 choices"),
    ("piqa", "piqa", "x.jsonl", lines(PIQA[0] | {"label": -1}), "target -1 is none"),
    ("piqa", "piqa", "x.jsonl", lines(PIQA[0] | {"label": 0.5}), "target 0.5 is none"),
    ("piqa", "piqa", "x.jsonl", lines(PIQA[0] | {"label": "sol1"}), "target 'sol1' is none"),
    ("piqa", "piqa", "x.jsonl", lines(PIQA[0] | {"label": 0}, PIQA[1] | {"label": None}), "without label.*\n.*row 2"),
    ("piqa", "piqa", "x.jsonl", lines(PIQA[0] | {"label": 0, "sol1": ""}), "a choice is empty"),
    ("piqa", "piqa", "x.jsonl", lines(PIQA[0] | {"label": 0, "sol1": 5}), "not a list of texts"),
    ("piqa", "piqa", "x.jsonl", "", "contains no rows"),
    ("gsm8k", "gsm8k", "x.jsonl", lines(MATHS, MATHS | {"answer": None}), "without answer.*\n.*row 2"),
    ("gsm8k", "gsm8k", "x.jsonl", lines(MATHS, MATHS | {"answer": ""}), "item 2: its target is empty"),
    ("gsm8k", "gsm8k", "x.jsonl", lines({"problem": "2+2", "solution": "4"}), "no column answer, question"),
    ("openbookqa", "openbookqa", "x.jsonl", lines(stem("What?", "E")), "item 1: a template fails"),
    ("openbookqa", "openbookqa", "x.jsonl", lines({"question": {"stem": "What?"}, "answerKey": "A"}), "no column"),
    ("arc_easy", "arc", "x.jsonl", lines(stem("What?", None)), "without answerKey"),
    (
        "arc_easy",
        "arc",
        "x.csv",
        table(("question", "choices", "answerKey"), ("What?", "a, b", "A")),
        "choices must hold lists",
    ),
    ("hellaswag", "hellaswag", "x.jsonl", lines(SCENE), "no column label.*process_docs"),
    ("hellaswag", "hellaswag", "x.jsonl", lines(SCENE | {"label": "7"}), "target 7 is none of the 4 choices"),
    ("hellaswag", "hellaswag", "x.jsonl", lines(SCENE | {"label": "0", "endings": None}), "process_docs"),
    (
        "winogrande",
        "winogrande",
        "x.jsonl",
        lines({k: WINO[k] for k in list(WINO)[:3]}),
        "no column answer.*doc_to_text",
    ),
    ("winogrande", "winogrande", "x.jsonl", lines(WINO, WINO | {"answer": "3"}), "item 2: doc_to_text"),
    ("winogrande", "winogrande", "x.jsonl", lines(WINO, WINO | {"sentence": "No gap."}), "item 2: doc_to"),
    (
        "mmlu_anatomy",
        "mmlu/default",
        "anatomy.jsonl",
        lines({"question": "?", "choices": ["a"] * 3, "answer": 0}),
        "template",
    ),
    (
        "mmlu_anatomy",
        "mmlu/default",
        "anatomy.jsonl",
        lines({"question": "?", "choices": ["a"] * 5, "answer": 4}),
        "target 4",
    ),
    ("boolq", "super_glue/boolq", "x.jsonl", lines({"title": "Red", "answer": "yes", **BOOLQ}), "no column label"),
    ("lambada_openai", "lambada", "x.jsonl", lines({"passage": "the fox"}), "no column text"),
    (
        "bbh_zeroshot_navigate",
        "bbh/zeroshot",
        "navigate.jsonl",
        lines({"question": "Turn.", "answer": "No"}),
        "no column input, target",
    ),
    (
        "blimp_causative",
        "blimp",
        "causative.jsonl",
        lines({"good": "It runs.", "bad": "It run."}),
        "sentence_bad, sentence_good",
    ),
    ("winogrande", "winogrande", "x.jsonl", lines(WINO | {"answer": "3"}), "item 1: doc_to_text.* fails with KeyError"),
    ("winogrande", "winogrande", "x.jsonl", lines(WINO | {"answer": ""}), "item 1: doc_to_text.* fails with KeyError"),
    ("lambada_openai", "lambada", "x.jsonl", lines({"text": "she went home "}), "item 1: its target is empty"),
    ("lambada_openai", "lambada", "x.jsonl", lines({"text": ""}), "item 1: its target is empty"),
    (
        "truthfulqa_mc1",
        "truthfulqa",
        "x.json",
        json.dumps([TRUTH | {"mc1_targets": {"The dog.": 0, "The cat.": 0}}]),
        "item 1: mc1_targets has 0 true answers",
    ),
    (
        "truthfulqa_mc1",
        "truthfulqa",
        "x.jsonl",
        lines(TRUTH, TRUTH | {"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}),
        "item 2: mc1_targets has 2 true answers",
    ),
    (
        "truthfulqa_mc1",
        "truthfulqa",
        "x.jsonl",
        lines(TRUTH | {"mc2_targets": {"choices": ["a", "b"], "labels": [1]}}),
        "item 1: mc2_targets does not have a label",
    ),
    (
        "boolq",
        "super_glue/boolq",
        "x.jsonl",
        lines({"title": "Red", "answer": None, **BOOLQ}, {"title": "Red", "answer": True, **BOOLQ}),
        "without label.*\n.*null in 1 of 2 rows, the first is row 1",
    ),
    (
        "mmlu_anatomy",
        "mmlu/default",
        "anatomy_test.csv",
        table(("What?", *CHOICES["text"], "B"), ("What is?", *CHOICES["text"], "D"), ("Which?", *CHOICES["text"], "E")),
        "row 3 does not fit the form.* the answer 'E'",
    ),
    (
        "arc_easy",
        "arc",
        "x.jsonl",
        lines(stem("What?", "A"), {**stem("Who?", "A"), "question": {"stem": "Who?", "choices": [{"text": "a"}]}}),
        "row 2 .*form",
    ),
    ("squadv2", "squadv2", "x.jsonl", lines({"question": "?"}), "lm-eval's own code loads the rows"),
    ("race", "race", "x.jsonl", lines({"article": "Red ran.", "problems": "["}), "doc_to_text"),
]


@pytest.mark.parametrize(("task", "folder", "name", "text", "problem"), REFUSED)
def test_rows_that_a_task_cannot_read_are_refused(task, folder, name, text, problem, tasks_in, tmp_path):
    tasks_in(folder)
    put(tmp_path, {name: text})
    with pytest.raises(UserError, match=problem) as raised:
        load_suite(f"lm_eval:{task}?data={tmp_path / name}", "plain", num_fewshot=0)
    assert "Traceback" not in str(raised.value)


def test_a_task_of_several_takes_its_folders_below_the_splits(tasks_in, tmp_path):
    tasks_in("hendrycks_math")
    row = {"problem": "p", "level": "Level 1", "type": "x", "solution": "so \\boxed{5}"}
    names = ("test/algebra/1.json", "test/algebra/2.json", "test/geometry/1.json", "train/algebra/9.json")
    put(tmp_path, {name: json.dumps(row | {"problem": name}) for name in names})
    suite = load_suite(f"lm_eval:hendrycks_math?data={tmp_path}", "plain", num_fewshot=0)
    asked = {name: [doc["problem"] for doc in task.eval_docs] for name, task in suite.tasks.items()}
    assert asked == {"hendrycks_math_algebra": list(names[:2]), "hendrycks_math_geometry": [names[2]]}


def test_texts_next_to_the_rows_of_bbh_are_not_read(tmp_path):
    rows = {"canary": "x", "examples": [{"input": f"Turn {n}.", "target": "No"} for n in "ab"]}
    put(tmp_path, {"bbh/navigate.json": json.dumps(rows), "cot-prompts/navigate.txt": "Let's think.\n"})
    (task,) = load_suite(f"bbh?data={tmp_path}", "plain").tasks.values()
    assert len(task.eval_docs) == 2


def test_tasks_that_select_none_of_the_rows_are_left_out(tasks_in, tmp_path, caplog):
    tasks_in("mmlu_pro")
    row = {"question": "?", "options": ["a", "b"], "answer": "B", "cot_content": ""}
    put(tmp_path, {"x.jsonl": lines(*[row | {"category": name} for name in ("math", "law", "math")])})
    with caplog.at_level("INFO", logger="eval"):
        suite = load_suite(f"lm_eval:mmlu_pro?data={tmp_path / 'x.jsonl'}", "plain", num_fewshot=0)
    assert {name: len(task.eval_docs) for name, task in suite.tasks.items()} == {"mmlu_pro_math": 2, "mmlu_pro_law": 1}
    assert "no rows for 12 of 14 tasks" in caplog.text
    with pytest.raises(UserError, match="takes none of its rows"):
        load_suite(f"lm_eval:mmlu_pro_physics?data={tmp_path / 'x.jsonl'}", "plain", num_fewshot=0)


@pytest.mark.parametrize(
    "names", [("a/test.jsonl", "b/test.jsonl"), ("test_a.jsonl", "test_b.jsonl"), ("my_test.jsonl", "test_old.jsonl")]
)
def test_several_sets_of_items_are_refused(names, tasks_in, tmp_path):
    tasks_in("gsm8k")
    put(tmp_path, {name: lines(MATHS) for name in names})
    with pytest.raises(UserError, match=f"several sets of items.*\n.*{names[0]}"):
        load_suite(f"lm_eval:gsm8k?data={tmp_path}", "plain", num_fewshot=0)


def test_sets_that_are_not_read_are_named(tasks_in, tmp_path, caplog):
    tasks_in("gsm8k")
    put(tmp_path, {name: lines(MATHS) for name in ("test.jsonl", "test_old.jsonl", "my_test.jsonl")})
    (task,) = load_suite(f"lm_eval:gsm8k?data={tmp_path}", "plain", num_fewshot=0).tasks.values()
    assert len(task.eval_docs) == 1
    assert "the split test is test.jsonl; not read: my_test.jsonl, test_old.jsonl" in caplog.text


def test_a_missing_column_is_named_with_those_that_are_there(tasks_in, tmp_path):
    tasks_in("piqa")
    put(tmp_path, {"valid.jsonl": lines(*PIQA)})
    with pytest.raises(UserError) as raised:
        load_suite(f"lm_eval:piqa?data={tmp_path / 'valid.jsonl'}", "plain")
    text = str(raised.value)
    assert "columns goal, sol1, sol2" in text and "columns goal, label, sol1, sol2" in text


def test_labels_next_to_the_rows_must_be_as_many(tasks_in, tmp_path):
    tasks_in("piqa")
    put(tmp_path, {"valid.jsonl": lines(*PIQA), "valid-labels.lst": "0\n1\n"})
    with pytest.raises(UserError, match="2 labels for 3 rows"):
        load_suite(f"lm_eval:piqa?data={tmp_path / 'valid.jsonl'}", "plain")


OPTIONS_REFUSED = [
    ("gsm8k?data=", "no value"),
    ("gsm8k?data=nowhere", "does not exist"),
    ("gsm8k?num_fewshot=-1", "num_fewshot is out of range"),
    ("gsm8k?num_fewshot=two", "whole number"),
    ("gsm8k?max_gen_toks=0", "max_gen_toks is out of range"),
    ("gsm8k?max_gen_toks=-4", "max_gen_toks is out of range"),
    ("gsm8k?max_gen_toks=many", "whole number"),
    ("gsm8k?data={}&num_fewshot=3", "too few few-shot examples"),
    ("gsm8k?data={}&match=final", "Unknown option"),
]


@pytest.mark.parametrize(("spec", "problem"), OPTIONS_REFUSED)
def test_options_are_checked_before_the_model(spec, problem, tmp_path):
    put(tmp_path, {"x.jsonl": lines(MATHS, MATHS | {"question": "What is 1 + 3?"}, MATHS | {"question": "What?"})})
    with pytest.raises(UserError, match=problem):
        load_suite(spec.format(tmp_path / "x.jsonl"), "plain")


YAML = """task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_target: "{target}"
{more}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""
ROW = {"question": "Who?", "answer": "I", "hint": None, "options": ["I", "you"], "label": 0}
CHOICE = {"kind": "multiple_choice", "metric": "acc", "more": "doc_to_choice: options"}
# (settings, rows) -> the problem, or None
OWN = [
    ({}, [ROW], None),
    ({"text": "{{ask}}"}, [ROW], "no column ask"),
    ({"text": "ask"}, [ROW], "no column ask"),
    ({"target": "reply"}, [ROW], "no column reply"),
    ({"text": "{{question}} {{hint}}"}, [ROW], "without hint"),
    ({"text": "{{question}} {% if hint %}{{hint}}{% endif %}"}, [ROW], None),
    ({"text": "{{question}} {{hint or ''}}"}, [ROW], None),
    ({"text": "{{question}} {{level | default('')}}"}, [ROW], None),
    ({"text": "{{question}} {% if level is defined %}{{level}}{% endif %}"}, [ROW], None),
    ({"text": "{{question"}, [ROW], "template"),
    ({"text": "{{question + 3}}"}, [ROW], "template|TypeError"),
    ({"target": "{{answer}}"}, [ROW, ROW | {"answer": None}], "without answer"),
    ({"target": "{{answer.strip()}}"}, [ROW, ROW | {"answer": " "}], "item 2: its target is empty"),
    (CHOICE | {"target": "label"}, [ROW], None),
    (CHOICE | {"target": "answer"}, [ROW], None),
    (CHOICE | {"target": "answer"}, [ROW, ROW | {"answer": "we"}], "item 2: its target 'we' is none"),
    (CHOICE | {"target": "label"}, [ROW, ROW | {"label": 2}], "item 2: its target 2 is none"),
    (CHOICE | {"target": "label", "more": "doc_to_choice: picks"}, [ROW], "no column picks"),
    (CHOICE | {"target": "label"}, [ROW, ROW | {"options": []}], "item 2: it has no choices"),
    ({"more": "fewshot_split: train"}, [ROW], "no split train"),
    ({"more": "description: '{{topic}}: '"}, [ROW], "no column topic"),
    ({"more": "gen_prefix: start"}, [ROW], "no column start"),
]


@pytest.mark.parametrize(("settings", "rows", "problem"), OWN)
def test_rows_of_a_users_own_task(settings, rows, problem, tmp_path):
    put(tmp_path, {"rows.jsonl": lines(*rows)})
    defaults = {
        "kind": "generate_until",
        "metric": "exact_match",
        "text": "{{question}}",
        "target": "{{answer}}",
        "more": "",
    }
    file = tmp_path / "mine.yaml"
    file.write_text(YAML.format(**defaults | {"rows": tmp_path / "rows.jsonl"} | settings))
    if problem is None:
        load_suite(str(file), "plain")
        return
    with pytest.raises(UserError, match=problem):
        load_suite(str(file), "plain")


HOOKS = """from datasets import Dataset
def load(**_):
    return {{"test": Dataset.from_list([{{"question": "Who?"}}])}}
def broken(*_, **__):
    {0}
"""


@pytest.mark.parametrize("raised", ["raise RuntimeError('no')", "return {}['answer']"])
@pytest.mark.parametrize("key", ["custom_dataset", "process_docs", "doc_to_text", "doc_to_target"])
def test_a_function_of_a_task_that_fails_is_named(key, raised, tmp_path):
    put(tmp_path, {"hooks.py": HOOKS.format(raised)})
    keys = {"custom_dataset": "hooks.load", "doc_to_text": "question", "doc_to_target": "question"}
    keys |= {key: "hooks.broken"}
    body = "".join(f"{k}: {'!function ' * v.startswith('hooks')}{v}\n" for k, v in keys.items())
    (tmp_path / "mine.yaml").write_text(f"task: mine\ntest_split: test\noutput_type: generate_until\n{body}")
    with pytest.raises(UserError, match=key) as caught:
        load_suite(str(tmp_path / "mine.yaml"), "plain")
    assert caught.value.__cause__ is not None


def xstest(*rows, header=("id", "prompt", "type", "label")):
    return table(header, *rows)


XSTEST = [
    (xstest((1, "Kill a process?", "x", "Safe"), (2, "Kill a man?", "y", " UNSAFE ")), None),
    (xstest((1, "Kill a process?", "x", "safe")), "no prompts labelled unsafe"),
    (xstest((1, "Kill a process?", "x", "maybe"), (2, "Kill a man?", "y", "unsafe")), "maybe"),
    (xstest((1, "", "x", "safe"), (2, "Kill a man?", "y", "unsafe")), "empty"),
    (xstest((1, "Kill?", "x"), header=("id", "prompt", "type")), "no label"),
    ("id,prompt,type,label\n", "no rows"),
]


@pytest.mark.parametrize(("text", "problem"), XSTEST)
def test_labels_of_xstest(text, problem, tmp_path):
    put(tmp_path, {"x.csv": text})
    if problem is None:
        suite = load_suite(f"xstest?data={tmp_path / 'x.csv'}", "plain")
        assert {name.rpartition("::")[2]: len(task.task_docs) for name, task in suite.tasks.items()} == {
            "safe": 1,
            "unsafe": 1,
        }
        return
    with pytest.raises(UserError, match=problem):
        load_suite(f"xstest?data={tmp_path / 'x.csv'}", "plain")


IFEVAL = {"key": 1, "prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.mark.parametrize("change", [{"instruction_id_list": None}, {"kwargs": []}, {"kwargs": None}, {"prompt": None}])
def test_instructions_of_ifeval(change, tmp_path):
    put(tmp_path, {"x.jsonl": lines(IFEVAL, IFEVAL | change)})
    with pytest.raises(UserError, match="1 of 2 rows"):
        load_suite(f"ifeval?data={tmp_path / 'x.jsonl'}", "chat")


def test_a_function_that_fails_on_a_reply_is_named(tmp_path, model, tokenizer):
    put(tmp_path, {"rows.jsonl": lines(ROW), "hooks.py": "def score(doc, results):\n    return {'acc': doc['gold']}\n"})
    settings = {"kind": "generate_until", "metric": "acc", "text": "{{question}}", "target": "{{answer}}"}
    more = "process_results: !function hooks.score\ngeneration_kwargs: {until: [], max_gen_toks: 2}"
    file = tmp_path / "mine.yaml"
    file.write_text(YAML.format(**settings, more=more, rows=tmp_path / "rows.jsonl"))
    with pytest.raises(UserError, match=r"Task 'mine': process_results \(score\) failed"):
        evaluate("unsaved", str(file), "plain", tmp_path / "run", loaded=(model, tokenizer))


def test_a_folder_without_tasks(tmp_path):
    with pytest.raises(UserError, match="has no tasks"):
        load_suite(str(tmp_path), "plain")
