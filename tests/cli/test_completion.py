"""The completion script: bash accepts it, and completes verbs, options, recipe keys and recipe names."""

import subprocess

import pytest

import align
from alignment.cli.start.completion import script

VERBS = {verb: module for verb, (module, _) in align.VERBS.items()}
# A line to complete -> the words that have to be among those offered, and whether these are all.
LINES = {
    "align pretr": ["pretrain"],
    "align run tiny-": ["tiny-lora", ...],
    "align sft lora": ["lora-1gpu/sft.yaml"],
    "align init mine --from tl": ["tldr-pythia-1b"],
    "align run tiny --dry": ["--dry-run"],
    "align dpo tiny/dpo.yaml --bet": ["--beta"],
    "align run tiny --ppo.bet": ["--ppo.beta"],
    "align run tiny --evals.num": ["--evals.num_fewshot"],
    "align recipe rew": ["reward"],
    "align recipe sft lora_al": ["lora_alpha"],
    "align completion z": ["zsh"],
    "align chat runs/x --temper": ["--temperature"],
    "align compare a": [],
    "align compare m": ["my-model"],
    "align run tin": ["tiny", "tiny-mine", ...],  # a folder here among the packaged recipes
    "align run my-model/s": ["my-model/sft.yaml", "my-model/sub"],
    "align r": ["recipe", "report", "reward", "reward-card", "run"],  # no folders in a verb's place
    "align run tiny --until p": ["ppo", "pretrain"],
    "align run tiny-lora --until p": ["ppo", "pretrain"],
    "align run my-model --until gr": ["grpo"],
}
CALL = """
complete_line() { COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _align; echo "${COMPREPLY[@]}"; }
"""


def test_bash_completes_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("tiny-mine", "my-model/sub", "runs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "my-model/sft.yaml").touch()
    calls = "".join(f"complete_line '{line}'\n" for line in LINES)
    text = script("bash", VERBS) + CALL + calls + "complete -p align\n"
    done = subprocess.run(["bash", "--norc", "-uc", text], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    *offered, registered = done.stdout.splitlines()
    assert registered == "complete -o default -F _align align"
    for words, (line, expected) in zip(offered, LINES.items(), strict=True):
        if ... in expected:
            assert set(words.split()) > set(expected) - {...}, line
        else:
            assert sorted(words.split()) == expected, line


def test_the_verb_prints_the_script(capsys):
    for shell in ("bash", "zsh"):
        assert align.main(["completion", shell]) == 0
        assert capsys.readouterr().out == script(shell, VERBS) + "\n"
    assert script("zsh", VERBS).startswith("autoload -U +X compinit && compinit\n")


def test_every_option_of_every_verb_is_in_the_script(monkeypatch):
    text = script("bash", VERBS)
    branches = text.partition("_align_keys")[0].splitlines()
    for verb in ("init", "run", "reward-card", "export"):
        (branch,) = (line for line in branches if line.strip().startswith(f"{verb})"))
        with pytest.raises(SystemExit):
            align.main([verb, "--help"])
        assert "--debug" in branch and "--help" in branch
