"""An endpoint per test, and suites of generated replies."""

import json

import pytest
from completion_server import CompletionServer

YAML = """task: {name}
custom_dataset: !function rows.load
test_split: test
training_split: train
output_type: generate_until
{more}
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {settings}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


# Without the builder of data sets, which takes most of the time of so small a suite.
ROWS = """from datasets import Dataset

COLOURS = ["red", "green", "blue", "hat", "cup", "boat"]


def load(**_):
    rows = [{"question": f"Which has {c}?{' Say.' * i}", "answer": c, "id": i} for i, c in enumerate(COLOURS)]
    shots = [{"question": f"Shot {i}?", "answer": f"goat {i}"} for i in range(4)]
    return {"test": Dataset.from_list(rows), "train": Dataset.from_list(shots)}
"""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = CompletionServer()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def make_suite(tmp_path):
    """Write lm-eval YAML of six questions and four examples; its path."""

    def make(name="colours", more="", **settings) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rows.py").write_text(ROWS)
        settings = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False} | settings
        content = YAML.format(name=name, more=more, settings=json.dumps(settings))
        (folder / f"{name}.yaml").write_text(content)
        return str(folder / f"{name}.yaml")

    return make
