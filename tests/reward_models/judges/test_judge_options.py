"""Options of judges that make no sense are refused before a question is asked."""

import pytest

from alignment.errors import UserError
from reward_models.functions import load_reward
from reward_models.judges.questions import read_template

API = "api_judge:api?base_url=http://localhost:1/v1&model=m"
WRONG = {
    "api_judge:api?": "base_url, model",
    "api_judge:api?base_url=localhost:8000&model=m": "not an HTTP address",
    f"{API}&lowest=5&highest=1": "lowest < highest",
    f"{API}&lowest=3&highest=3": "lowest < highest",
    f"{API}&lowest=one": "a whole number",
    f"{API}&concurrency=0": "concurrency",
    f"{API}&max_tokens=0": "max_tokens",
    f"{API}&retries=-1": "retries",
    f"{API}&timeout=0": "timeout",
    f"{API}&api_key_env=NO_SUCH_VARIABLE": "no key in the environment variable",
    f"{API}&api_key=secret": "did you mean 'api_key_env'",
    f"{API}&template_file=nowhere.txt": "no file nowhere.txt",
    f"{API}&template_file=FOLDER/without.txt": "does not show the completion",
    f"{API}&template_file=FOLDER/latin.txt": "not a text in UTF-8",
    "local_judge:local?checkpoint=x&lowest=5&highest=1": "lowest < highest",
    "local_judge:local?checkpoint=x&template_file=nowhere.txt": "no file nowhere.txt",
    "local_judge:local?checkpoint=x&batch_size=0": "batch_size",
    "local_judge:local?checkpoint=x&min_mass=2": "min_mass",
    "local_judge:local?": "checkpoint",
    "local_judge:local": "add its options: local?",
}


@pytest.mark.parametrize("spec", WRONG)
def test_options(spec, tmp_path):
    (tmp_path / "without.txt").write_text("Rate {reply} from {lowest} to {highest}.")
    (tmp_path / "latin.txt").write_bytes("Wie gut? Höchstens 5. {completion}".encode("latin-1"))
    with pytest.raises(UserError) as caught:
        load_reward(spec.replace("FOLDER", str(tmp_path)))
    assert WRONG[spec] in " ".join(str(caught.value).split())


def test_a_template_with_a_byte_order_mark(tmp_path):
    (tmp_path / "question.txt").write_text("\ufeffRate {completion}.", encoding="utf-8")
    assert read_template(str(tmp_path / "question.txt")) == "Rate {completion}."
