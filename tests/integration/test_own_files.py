"""recipes/local-files on files of a user's own."""

import json

import pytest
from align_cli import align


@pytest.fixture
def own_files(tmp_path):
    """A text, questions with answers, and pairs of transcripts."""
    lines = [f"The {animal} sat on the {thing}." for animal in ("cat", "dog", "hen") for thing in ("mat", "log", "bed")]
    (tmp_path / "book.txt").write_text("\n\n".join(" ".join(lines) + f" Page {page}." for page in range(40)))
    questions = [{"question": f"Where did cat {n} sit?", "answer": f"On mat {n}."} for n in range(40)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    pairs = [
        {
            "chosen": f"\n\nHuman: Where is cat {n}?\n\nAssistant: On the mat.",
            "rejected": f"\n\nHuman: Where is cat {n}?\n\nAssistant: Go away.",
        }
        for n in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    options = {"--text": "book.txt", "--instructions": "questions.jsonl", "--preferences": "pairs.jsonl"}
    return [word for option, name in options.items() for word in (option, tmp_path / name)]


def test_the_whole_pipeline_takes_them(own_files, workplace):
    small = ["--tokenizer.vocab_size=300", "--tokenizer.eval_share=0.1"]
    done = align("run", "recipes/local-files", *own_files, *small, "--quick", cwd=workplace)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((workplace / "runs/local-files/report.json").read_text())
    assert list(report["stages"]) == ["tokenizer", "pretrain", "sft", "reward", "dpo", "ppo"]


def test_missing_inputs_are_named_with_their_help(workplace):
    failed = align("run", "recipes/local-files", "--text", "book.txt", cwd=workplace)
    assert failed.returncode != 0 and "Traceback" not in failed.stderr
    assert "--instructions" in failed.stderr and "--preferences" in failed.stderr


@pytest.mark.slow
def test_the_whole_pipeline_on_real_files(shared_data, workplace):
    """Shakespeare, GSM8K and hh-rlhf, with the recipe as it stands."""
    files = ["--text", shared_data / "tinyshakespeare/input.txt", "--instructions", shared_data / "gsm8k/train.jsonl"]
    files += ["--preferences", shared_data / "hh/harmless-1500.jsonl"]
    done = align("run", "recipes/local-files", *files, "--output_dir", "runs/real-files", cwd=workplace)
    assert done.returncode == 0, done.stderr[-3000:]
    stages = json.loads((workplace / "runs/real-files/report.json").read_text())["stages"]
    assert stages["pretrain"]["metrics"]["eval_bits_per_byte"] < 3.5
    assert stages["sft"]["metrics"]["eval_loss"] < 5.0
