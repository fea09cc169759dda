"""Chat templates that raise: code of their authors, whose errors are user errors wherever a template is applied."""

import ppo_tiny as tiny
import pytest

from alignment.cli.inspect.chat import Chat
from alignment.errors import UserError
from alignment.stages.shared.lora import template_token_ids
from alignment.tokenization.chat_format import chat_eos_ids
from alignment.tokenization.reward_rows import reply_ending, reward_rows
from alignment.trainers.ppo.rollout import encode_prompts as encode_for_ppo
from eval.conditions.chat_template import reply_ends
from eval.generation.generate import encode_prompts
from eval.harness.lm import CausalLM
from reward_models.calls import checked
from reward_models.judges.local import LocalJudge
from reward_models.learned import LearnedReward

BROKEN = {
    "syntax error": "{% for m in messages %}",
    "raises": "{{ raise_exception('only images') }}",
    "missing attribute": "{{ messages[0].content.parts.text }}",
    "TypeError": "{{ messages + 1 }}",
    "ZeroDivisionError": "{{ 1 / 0 }}",
    "no default": {"rag": "x", "tool": "y"},
}
PROMPT = [{"role": "user", "content": "w1"}]
REPLY = [{"role": "assistant", "content": "w2"}]


@pytest.fixture(scope="module")
def models():
    return tiny.model().eval(), tiny.model(head="score").eval()


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_template_is_a_user_error_wherever_it_is_applied(case, models):
    words, (causal, scorer) = tiny.tokenizer(), models
    words.chat_template = BROKEN[case]
    chat = Chat(causal, words, 0.0, 3)
    calls = {
        "chat": lambda: chat.answer("w1"),
        "samples": lambda: encode_prompts(words, [PROMPT], "chat"),
        "eval": lambda: CausalLM(causal, words, 1).apply_chat_template(PROMPT),
        "ends": lambda: reply_ends(words),
        "eos": lambda: chat_eos_ids(words),
        "ppo": lambda: encode_for_ppo([{"prompt": PROMPT}], words),
        "lora": lambda: template_token_ids(words),
        "reward rows": lambda: reward_rows(words, [PROMPT], [REPLY]),
        "reply's end": lambda: reply_ending(words, PROMPT),
        "reward": lambda: checked(LearnedReward(scorer, words))(prompts=[PROMPT], completions=[REPLY]),
        "judge": lambda: LocalJudge._encode(_Judge(words), "w1"),
    }
    for name, call in calls.items():
        with pytest.raises(UserError) as raised:
            call()
        assert "template" in str(raised.value).lower() and "correct the function" not in str(raised.value), name
    assert chat.messages == []


class _Judge:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def test_a_reward_model_without_a_template_says_so(models):
    words = tiny.tokenizer()
    words.chat_template = None
    reward = checked(LearnedReward(models[1], words))
    with pytest.raises(UserError, match="has no chat template"):
        reward(prompts=[PROMPT], completions=[REPLY])
    assert len(reward(prompts=["w1"], completions=["w2"])) == 1
