"""Few-shot examples never include the item, whichever split they come from."""

import json

import pytest

from alignment.errors import UserError
from eval.harness.suite import load_suite

TASK = """task: shapes
dataset_path: json
dataset_kwargs: {{data_files: {files}}}
test_split: test
{more}
output_type: generate_until
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def rows(*numbers):
    """Rows with the same question differ in their note, so that lm-eval treats them as different rows."""
    return [{"question": f"shape {n}?", "answer": f"{n}", "note": str(i)} for i, n in enumerate(numbers)]


def shapes(folder, more="", **splits):
    files = {}
    for split, part in splits.items():
        files[split] = str(folder / f"{split}.jsonl")
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "shapes.yaml").write_text(TASK.format(files=json.dumps(files), more=more))
    (task,) = load_suite(str(folder / "shapes.yaml"), "plain", num_fewshot=2).tasks.values()
    return task


def prompts(task):
    task.set_fewshot_seed(0)
    task.build_all_requests()
    return [instance.args[0] for instance in task.instances]


def test_a_training_row_equal_to_an_item_is_never_an_example(tmp_path):
    task = shapes(tmp_path, "training_split: train", train=rows(0, 1, 2, 3, 8, 9), test=rows(0, 1, 2, 3))
    for number, prompt in enumerate(prompts(task)):
        *shots, asked = [line for line in prompt.splitlines() if line.startswith("Q:")]
        assert asked == f"Q: shape {number}?" and sorted(shots) == ["Q: shape 8?", "Q: shape 9?"]


@pytest.mark.parametrize("more", ["", "fewshot_split: test"])
def test_items_as_examples_of_one_another(tmp_path, more):
    """The items include a duplicate: another row with the same question."""
    for prompt in prompts(shapes(tmp_path, more, test=rows(0, 0, 1, 2, 3))):
        *shots, asked = [line for line in prompt.splitlines() if line.startswith("Q:")]
        assert len(shots) == 2 and asked not in shots


def test_draws_without_a_leak_are_lm_evals_own(tmp_path):
    task = shapes(tmp_path, "training_split: train", train=rows(*range(10, 20)), test=rows(0, 1, 2))
    found = prompts(task)
    task.sampler = task.sampler.own
    assert found == prompts(task)


def test_too_few_rows_are_refused(tmp_path):
    task = shapes(tmp_path, "training_split: train", train=rows(0, 1, 8), test=rows(0, 1))
    with pytest.raises(UserError, match="too few few-shot examples"):
        prompts(task)
