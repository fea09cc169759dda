"""Check the tokenizer and its chat template: special tokens, learned end tokens, and prompts at inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from alignment.check.findings import Finding, error, note, warning
from alignment.check.material import Material
from alignment.data.reading.row_formats import CONVERSATIONS
from alignment.data.tokenizing.encoding import encode_conversation, render, render_text, training_template
from alignment.tokenization.base import PAD_TOKENS
from alignment.tokenization.chat_format import Messages, end_of_turn_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONVERSATION = [{"role": "user", "content": "What lives here?"}, {"role": "assistant", "content": "A zebra."}]
PREFIX_ROWS = 50  # conversations to render up to each of their replies


def check_special_tokens(material: Material) -> Iterator[Finding]:
    """Report a missing EOS or pad token, pad = EOS, and tokens beyond the model's vocabulary."""
    tokenizer = material.tokenizer
    if tokenizer.eos_token_id is None:
        yield error(
            "the tokenizer has no eos_token",
            got=f"special tokens {', '.join(tokenizer.all_special_tokens) or 'none'}",
            expected="a token that ends a text, which the model learns to stop with",
            fix="set tokenizer.eos_token and save the tokenizer again, or eos_token in the sft recipe",
        )
    yield from _check_pad(material)
    vocabulary = getattr(material.origin.config, "vocab_size", None)
    new = material.origin.new_tokens  # the stage adds rows for them
    known = {token: number for token, number in tokenizer.get_vocab().items() if token not in new}
    largest = max(known.values())
    if vocabulary is not None and largest >= vocabulary:
        beyond = sorted((number, token) for token, number in known.items() if number >= vocabulary)
        yield error(
            "the tokenizer has tokens beyond the model's vocabulary",
            got=f"{len(beyond)} tokens, from {beyond[0][1]!r} (id {beyond[0][0]}); vocab_size {vocabulary}",
            expected=f"a model with at least {largest + 1} embedding rows",
            fix="model.resize_token_embeddings(len(tokenizer)), then save model and tokenizer together",
        )


def _check_pad(material: Material) -> Iterator[Finding]:
    """Report a missing pad token, or pad = EOS."""
    tokenizer = material.tokenizer
    spare = next((token for token in PAD_TOKENS if token in tokenizer.get_vocab()), None)
    fix = f"pad_token: {spare!r} in the recipe" if spare else "add a padding token, resize the embeddings, save both"
    if tokenizer.pad_token_id is None:
        yield error(
            "the tokenizer has no pad token",
            got="none: TRL would pad with the EOS token",
            expected="a pad token other than the EOS token",
            fix=fix,
        )
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        if material.kind == "text":
            yield warning(
                "the pad token is the EOS token",
                got=f"{tokenizer.pad_token!r}: learned here, as pretraining masks padding by position",
                expected="two tokens: other trainers mask the pad token's id",
                fix=fix,
            )
            return
        yield error(
            "the pad token is the EOS token",
            got=f"{tokenizer.pad_token!r} is both: a trainer that masks padding by id never learns the end, and a "
            "reward model reads its score before the end",
            expected="two tokens",
            fix=fix,
        )


def check_template(material: Material) -> Iterator[Finding]:
    """Report a missing or faulty template: no end token, an end token outside the loss mask, two BOS tokens."""
    tokenizer = material.tokenizer
    if not tokenizer.chat_template:
        yield error(
            "the tokenizer has no chat template",
            got=tokenizer.name_or_path or None,
            expected="a template, so that training and inference format conversations alike",
            fix="chat_template_path: FILE.jinja in the sft recipe, or the id of a model with a template to copy",
        )
        return
    try:
        render(tokenizer, CONVERSATION)
    except (TemplateError, TypeError) as refusal:
        yield error(
            "the chat template cannot format a plain conversation", got=str(refusal), fix="correct the template"
        )
        return
    end = end_of_turn_id(tokenizer)
    if end is None:
        after = render_text(tokenizer, CONVERSATION).rpartition("A zebra.")[2]
        yield error(
            "the chat template writes no end token after a reply: the model never learns to stop",
            got=f"{after!r} after the last reply",
            expected=f"a special token, such as {tokenizer.eos_token!r}",
            fix="write the end-of-turn token after the content of assistant messages",
        )
    elif material.kind == CONVERSATIONS:
        yield from _check_mask(material, end)
    yield from _check_bos(tokenizer, material.training_template)


def _check_mask(material: Material, end: int) -> Iterator[Finding]:
    """Report an end token outside the loss mask, if only replies are learned."""
    if not material.get("assistant_only_loss") or not marks_replies(material):
        return
    encoded = encode_conversation(0, CONVERSATION, material.tokenizer, True, material.training_template)
    learned = [token for token, kept in zip(encoded.ids, encoded.learned, strict=True) if kept]
    if end not in learned:
        yield error(
            "the end token of a reply is not in the loss mask: the model never learns to stop",
            got=f"{material.tokenizer.decode([end])!r} after the generation block",
            expected="the end token inside {% generation %}...{% endgeneration %}",
            fix="move {% endgeneration %} after the end token, or set assistant_only_loss: false",
        )


def marks_replies(material: Material) -> bool:
    """Whether the template used in training has generation markers."""
    from trl.chat_template_utils import has_generation_markers

    return has_generation_markers(material.training_template or material.tokenizer.chat_template)


def find_training_template(tokenizer: PreTrainedTokenizerBase, replies_only: bool) -> tuple[str | None, list[Finding]]:
    """Return the template that SFTTrainer uses instead of the tokenizer's (None: it keeps that one), and findings."""
    from trl import chat_template_utils

    try:
        template, _ = training_template(tokenizer, replies_only)
    except ValueError:
        return None, [
            error(
                "the chat template has no generation markers: with assistant_only_loss, no token would be learned",
                got="no {% generation %} block, and TRL has no training version of this template",
                expected="{% generation %}...{% endgeneration %} around the replies and their end token",
                fix="chat_template_path: FILE.jinja with the markers, or assistant_only_loss: false",
            )
        ]
    if template is None:
        return None, []
    names = [name for name, value in vars(chat_template_utils).items() if isinstance(value, str) and value == template]
    what = f"the template has no generation markers: TRL trains with its own {names[0] if names else 'version of it'}"
    return template, [note(what, got="inference uses the tokenizer's template; the checks below compare both")]


def _check_bos(tokenizer: PreTrainedTokenizerBase, template: str | None) -> Iterator[Finding]:
    """Report conversations that begin with two BOS tokens."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    ids = render(tokenizer, CONVERSATION, template=template)
    if ids[:2] == [bos, bos]:
        yield error(
            "conversations begin with two BOS tokens",
            got=f"{tokenizer.decode(ids[:6])!r}",
            expected=f"one {tokenizer.bos_token!r}: from the template or from the tokenizer, not from both",
            fix="remove the BOS token from the chat template",
        )
        return
    again = tokenizer(render_text(tokenizer, CONVERSATION, template=template))["input_ids"]
    if again[:2] == [bos, bos]:
        yield note(
            "rendered text begins with two BOS tokens if it is tokenized again",
            got="the template writes one, the tokenizer adds one; the stages here rely on the template",
            fix="elsewhere: apply_chat_template(tokenize=True), or tokenizer(text, add_special_tokens=False)",
        )


def check_system(material: Material) -> Iterator[Finding]:
    """Report a template that refuses or ignores the data's system messages."""
    tokenizer = material.tokenizer
    if not tokenizer.chat_template:
        return
    with_system = [row for row in map(conversation_of, material.sample) if row and row[0]["role"] == "system"]
    if not with_system:
        return
    content = "Speak of zebras only."
    try:
        text = render_text(tokenizer, [{"role": "system", "content": content}, *CONVERSATION], template=None)
    except (TemplateError, TypeError) as refusal:
        yield error(
            "the data has system messages, which the chat template refuses",
            got=f"{refusal} ({len(with_system)} of {len(material.sample)} sampled rows)",
            expected="a template that writes system messages",
            fix="correct the template, or move the system text into the first user message",
        )
        return
    if content not in text:
        yield error(
            "the data has system messages, which the chat template ignores",
            got=f"{len(with_system)} of {len(material.sample)} sampled rows",
            expected="a template that writes system messages",
            fix="correct the template, or move the system text into the first user message",
        )


def check_prefix(material: Material) -> Iterator[Finding]:
    """Report prompts that differ between training and inference, in text or in tokens."""
    tokenizer, wrong = material.tokenizer, []
    if not tokenizer.chat_template:
        return
    rows = [CONVERSATION, *filter(None, map(conversation_of, material.sample[:PREFIX_ROWS]))]
    for messages in rows:
        try:
            wrong += list(_differences(tokenizer, messages, material.training_template))
        except (TemplateError, TypeError):
            continue  # check_refused reports rows that the template refuses
    if wrong:
        yield error(
            "the template writes prompts differently at inference and in training",
            got=wrong[0] + f" ({len(wrong)} replies of {len(rows)} conversations)",
            expected="in training, the prompt with its generation prompt and then the reply",
            fix="let add_generation_prompt write exactly the text before a reply in training",
        )


def _differences(tokenizer: PreTrainedTokenizerBase, messages: Messages, template: str | None) -> Iterator[str]:
    """Describe the difference for each reply before which training and inference differ."""
    whole, whole_ids = (
        render_text(tokenizer, messages, template=template),
        render(tokenizer, messages, template=template),
    )
    for position, turn in enumerate(messages):
        if turn["role"] != "assistant":
            continue
        prompt = render_text(tokenizer, messages[:position], prompt=True)
        if not whole.startswith(prompt):
            same = _common(prompt, whole)
            end = same + 40
            yield f"inference {prompt[same:end]!r}, training {whole[same:end]!r}, after {same} characters"
            continue
        prompt_ids = render(tokenizer, messages[:position], prompt=True)
        if whole_ids[: len(prompt_ids)] != prompt_ids:
            same = _common(prompt_ids, whole_ids)
            left, right = tokenizer.decode(prompt_ids[same:]), tokenizer.decode(whole_ids[same : same + 3])
            yield f"the same text in different tokens: inference {left!r}, training {right!r}"


def _common(first: Any, second: Any) -> int:
    """Return the length of the common prefix of two sequences."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (left, right) in enumerate(pairs) if left != right), min(len(first), len(second)))


def conversation_of(row: dict[str, Any]) -> Messages | None:
    """Return a canonical row's conversation, with its (chosen) reply if it has one; None for text."""
    if "messages" in row:
        return row["messages"]
    if "prompt" in row:
        return row["prompt"] + (row.get("chosen") or row.get("completion") or [])
    return None
