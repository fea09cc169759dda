"""The task of items whose prompt is a conversation: system message, earlier turns, and the user's last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.task import ConfigurableTask

Turns = list[dict[str, str]]


class ConversationTask(ConfigurableTask):
    """A task whose rows have `turns`, the messages of the prompt.

    In the chat format the prompt is rendered from the turns alone, as training renders them. Few-shot examples are
    conversations before the item's own, without their system messages: a template takes one, at the beginning.
    """

    def fewshot_context(
        self,
        doc: dict,
        num_fewshot: int,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        chat_template: Callable[..., str] | None = None,
        gen_prefix: str | None = None,
    ) -> str:
        """Return an item's prompt."""
        system, asked = _parted(doc["turns"])
        turns = [*system, *(turn for example in self._examples(doc, num_fewshot) for turn in example), *asked]
        if apply_chat_template and chat_template is not None:
            return chat_template(turns, add_generation_prompt=True)
        return _plain(turns)

    def _examples(self, doc: dict, count: int) -> list[Turns]:
        if not count:
            return []
        among_items = self.fewshot_cfg.split == self.config.test_split
        drawn = self.sampler.sample(n=count, eval_doc=doc if among_items else None)
        return [[*_parted(row["turns"])[1], {"role": "assistant", "content": self._reply(row)}] for row in drawn]

    def _reply(self, doc: dict) -> str:
        target: Any = self.doc_to_target(doc)
        return str(self.doc_to_choice(doc)[target]) if self.config.doc_to_choice else str(target)


def _parted(turns: Turns) -> tuple[Turns, Turns]:
    """The system message, if there is one, and the other turns."""
    count = int(turns[0]["role"] == "system")
    return turns[:count], turns[count:]


def _plain(turns: Turns) -> str:
    """Turns as questions and answers, up to the last question's open answer."""
    parts = {"system": "{}\n\n", "user": "Question: {}\nAnswer:", "assistant": " {}\n\n"}
    return "".join(parts[turn["role"]].format(turn["content"]) for turn in turns)
