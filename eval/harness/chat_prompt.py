"""Prompts in the chat format, for templates with and without a system role."""

from __future__ import annotations

import logging
from collections.abc import Callable

from alignment.errors import UserError
from alignment.tokenization.chat_format import TemplateRefusal

logger = logging.getLogger(__name__)

Turns = list[dict[str, str]]
SEPARATOR = "\n\n"  # between the instructions and the first question, unless one of them has white space there


def render_chat(render: Callable[[Turns], str], turns: Turns) -> str:
    """Render turns by a chat template; without a system role, instructions are put before the first user turn.

    lm-eval takes the system turn out if the template refuses it (Gemma's), and does not notice if the template ignores
    it. The description of a task is part of its measurement.

    Args:
        render: applies the chat template.
        turns: the turns, the first may have the role `system`.

    Raises:
        UserError: the template refuses the turns.
    """
    instructions = "".join(turn["content"] for turn in turns if turn["role"] == "system")
    prompts, refusals = [], []
    for given in [turns, _merged(turns, instructions)] if instructions else [turns]:
        try:
            prompts.append(render(given))
        except TemplateRefusal as error:
            refusals.append(error.got)
            continue
        if _shows(prompts[-1], instructions):
            return prompts[-1]
    if prompts:
        logger.warning("the chat template does not show a task's description: %s", instructions.strip()[:60])
        return prompts[0]
    raise UserError(
        "The chat template cannot render a task's prompt.",
        got=str(refusals[-1]),
        expected=f"a template for the roles {', '.join(dict.fromkeys(turn['role'] for turn in turns))}",
        fix="run the suite with --format plain, or with num_fewshot=0",
    )


def _merged(turns: Turns, instructions: str) -> Turns:
    """The turns with the instructions at the beginning of the first user turn."""
    others = [turn for turn in turns if turn["role"] != "system"]
    place = next(number for number, turn in enumerate(others) if turn["role"] == "user")
    content = others[place]["content"]
    between = "" if instructions[-1].isspace() or content[:1].isspace() else SEPARATOR
    first = instructions + between + content if instructions.strip() else content
    return [*others[:place], others[place] | {"content": first}, *others[place + 1 :]]


def _shows(prompt: str, instructions: str) -> bool:
    """Whether a prompt contains the instructions, apart from white space, which templates strip."""
    return "".join(instructions.split()) in "".join(prompt.split())
