"""The suites on real files, with a checkpoint of this project and one of another architecture."""

import pytest
import torch

from eval.harness.run_suite import evaluate

LIMIT = 3
# suite with its data -> (format, metric of the first figure, tasks)
SUITES = {
    "blimp?data={}/blimp": ("plain", "acc", 23),
    "gsm8k?data={}/gsm8k/train.jsonl&num_fewshot=2&max_gen_toks=8": ("chat", "exact_match,strict-match", 1),
    "xstest?data={}/xstest/xstest_prompts.csv&max_gen_toks=8": ("chat", "refused", 2),
    "ifeval?data={}/ifeval/input_data.jsonl&max_gen_toks=8": ("chat", "prompt_level_strict_acc", 1),
    "text?data={}/tinyshakespeare/input.txt": ("plain", "bits_per_byte", 1),
}


@pytest.fixture(scope="module")
def trained_tokenizer(shared_data):
    """A checkpoint with chat template and end-of-turn token, trained on real text."""
    from alignment.tokenization.train import train_tokenizer

    text = (shared_data / "tinyshakespeare/input.txt").read_text(encoding="utf-8")
    return train_tokenizer(text[:200_000].split("\n\n"), 1000, 2048)


@pytest.fixture(scope="module")
def ours(trained_tokenizer):
    from alignment.models.gpt import GPTConfig, GPTForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"pad_token_id": trained_tokenizer.pad_token_id, "eos_token_id": trained_tokenizer.eos_token_id}
    config = GPTConfig(**sizes, **tokens, vocab_size=len(trained_tokenizer), max_position_embeddings=2048)
    return GPTForCausalLM(config).eval(), trained_tokenizer


@pytest.mark.parametrize("kind", ["ours", "foreign"])
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.partition("?")[0])
def test_real_files_run(suite, kind, shared_data, ours, long_model, tokenizer, tmp_path):
    format, metric, tasks = SUITES[suite]
    loaded = ours if kind == "ours" else (long_model, tokenizer)
    record = evaluate("unsaved", suite.format(shared_data), format, tmp_path, loaded=loaded, limit=LIMIT)
    assert record["tasks"][0]["metric"] == metric
    assert len({row["task"] for row in record["tasks"]}) == tasks
    assert all(row["n"] == LIMIT for row in record["tasks"][: min(tasks, 22)])
    if suite.startswith("blimp"):
        assert record["tasks"][-1]["task"] == "blimp" and record["tasks"][-1]["n"] == 22 * LIMIT


def test_gsm8k_examples_are_other_questions(shared_data):
    from eval.harness.suite import load_suite

    (task,) = load_suite(f"gsm8k?data={shared_data}/gsm8k/train.jsonl", "plain").tasks.values()
    task.set_fewshot_seed(0)
    task.build_all_requests(limit=5)
    for row, instance in zip(task.eval_docs.select(range(5)), task.instances, strict=True):
        prompt = instance.args[0]
        assert prompt.count("Question: ") == 6 and prompt.count(row["question"]) == 1
        assert row["answer"] not in prompt and prompt.count("#### ") == 5


def test_ifeval_keeps_what_runs_offline(shared_data, caplog):
    from eval.harness.suite import load_suite

    with caplog.at_level("INFO", logger="eval"):
        (task,) = load_suite(f"ifeval?data={shared_data}/ifeval/input_data.jsonl", "chat").tasks.values()
    assert len(task.eval_docs) == 387 and "154 of 541 prompts left out" in caplog.text
    for doc in task.eval_docs:
        task.process_results(
            doc, ["Here is a reply. It has two sentences, and a comma.\n\n* one\n* two\n\nP.S. It ends."]
        )
