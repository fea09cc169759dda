"""Checks of the tokenizer and its chat template: ends that are learned, one BOS, the same text in training and use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from alignment.check.findings import Finding, error, note, warning
from alignment.check.material import Material
from alignment.data.tokenizing.encoding import encode_conversation, render, render_text
from alignment.tokenization.base import PAD_TOKENS
from alignment.tokenization.chat_format import Messages, end_of_turn_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONVERSATION = [{"role": "user", "content": "What lives here?"}, {"role": "assistant", "content": "A zebra."}]
# So many conversations are rendered once more for each of their replies.
PREFIX_ROWS = 50


def check_special_tokens(material: Material) -> Iterator[Finding]:
    """EOS and pad are there, are two tokens, and the model has a row for every token."""
    tokenizer = material.tokenizer
    if tokenizer.eos_token_id is None:
        yield error(
            "the tokenizer has no eos_token",
            got=f"special tokens {', '.join(tokenizer.all_special_tokens) or 'none'}",
            expected="a token that ends a text, so that the model learns to stop",
            fix="set tokenizer.eos_token and save the tokenizer again, or eos_token in the sft recipe",
        )
    yield from _check_pad(material)
    vocabulary = getattr(material.origin.config, "vocab_size", None)
    new = material.origin.new_tokens  # the stage makes rows for them
    known = {token: number for token, number in tokenizer.get_vocab().items() if token not in new}
    largest = max(known.values())
    if vocabulary is not None and largest >= vocabulary:
        beyond = sorted((number, token) for token, number in known.items() if number >= vocabulary)
        yield error(
            "the tokenizer has tokens beyond the model's vocabulary",
            got=f"{len(beyond)} of them, from {beyond[0][1]!r} (id {beyond[0][0]}); vocab_size {vocabulary}",
            expected=f"a model with at least {largest + 1} rows of embeddings",
            fix="model.resize_token_embeddings(len(tokenizer)), then save model and tokenizer together",
        )


def _check_pad(material: Material) -> Iterator[Finding]:
    tokenizer = material.tokenizer
    spare = next((token for token in PAD_TOKENS if token in tokenizer.get_vocab()), None)
    fix = f"pad_token: {spare!r} in the recipe" if spare else "add a token for padding, resize the embeddings, save"
    if tokenizer.pad_token_id is None:
        yield error(
            "the tokenizer has no pad token",
            got="none: trl would take the EOS token in its place",
            expected="a pad token that is not the EOS token",
            fix=fix,
        )
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        if material.kind == "text":
            yield warning(
                "the pad token is the EOS token",
                got=f"{tokenizer.pad_token!r}: learned here, for pretraining masks padding by its place",
                expected="two tokens: other trainers mask by the pad token's id",
                fix=fix,
            )
            return
        yield error(
            "the pad token is the EOS token",
            got=f"{tokenizer.pad_token!r} is both: what masks padding by its id never learns the end, and a reward "
            "model reads its score before it",
            expected="two tokens",
            fix=fix,
        )


def check_template(material: Material) -> Iterator[Finding]:
    """The template is there, writes every conversation, ends replies, and marks them where only they are learned."""
    tokenizer = material.tokenizer
    if not tokenizer.chat_template:
        yield error(
            "the tokenizer has no chat template",
            got=tokenizer.name_or_path or None,
            expected="a template, so that training and inference write conversations alike",
            fix="chat_template_path: FILE.jinja in the sft recipe, or the id of a model whose template to take",
        )
        return
    try:
        render(tokenizer, CONVERSATION)
    except (TemplateError, TypeError) as refusal:
        yield error("the chat template cannot write a plain conversation", got=str(refusal), fix="correct the template")
        return
    end = end_of_turn_id(tokenizer)
    if end is None:
        after = render_text(tokenizer, CONVERSATION).rpartition("A zebra.")[2]
        yield error(
            "the chat template writes no end token after a reply: where to stop is never learned",
            got=f"{after!r} after the last reply",
            expected=f"a special token, such as {tokenizer.eos_token!r}",
            fix="write the end-of-turn token after the content of assistant messages",
        )
    elif material.kind == "sft":
        yield from _check_mask(material, end)
    yield from _check_bos(tokenizer, material.training_template)


def _check_mask(material: Material, end: int) -> Iterator[Finding]:
    """With the loss on replies alone, their end token carries loss too."""
    if not material.get("assistant_only_loss") or not marks_replies(material):
        return
    encoded = encode_conversation(0, CONVERSATION, material.tokenizer, True, material.training_template)
    learned = [token for token, kept in zip(encoded.ids, encoded.learned, strict=True) if kept]
    if end not in learned:
        yield error(
            "the end token of a reply is not in the loss mask: where to stop is never learned",
            got=f"{material.tokenizer.decode([end])!r} after the generation block",
            expected="the end token inside {% generation %}...{% endgeneration %}",
            fix="move {% endgeneration %} behind the end token, or set assistant_only_loss: false",
        )


def marks_replies(material: Material) -> bool:
    from trl.chat_template_utils import has_generation_markers

    return has_generation_markers(material.training_template or material.tokenizer.chat_template)


def training_template(tokenizer: PreTrainedTokenizerBase, replies_only: bool) -> tuple[str | None, list[Finding]]:
    """The template that SFTTrainer puts in place of the tokenizer's (None: it keeps that), and what to say of it."""
    from trl import chat_template_utils, get_training_chat_template

    if not replies_only or not tokenizer.chat_template:
        return None, []
    if chat_template_utils.has_generation_markers(tokenizer.chat_template):
        return None, []
    try:
        template = get_training_chat_template(tokenizer)
    except ValueError:
        return None, [
            error(
                "the chat template has no generation markers: with assistant_only_loss no token would be learned",
                got="no {% generation %} block, and no template that trl knows a training version of",
                expected="{% generation %}...{% endgeneration %} around the replies and their end token",
                fix="chat_template_path: FILE.jinja with the markers, or assistant_only_loss: false",
            )
        ]
    names = [name for name, value in vars(chat_template_utils).items() if isinstance(value, str) and value == template]
    what = f"the template has no generation markers: trl trains with its own {names[0] if names else 'version of it'}"
    return template, [note(what, got="inference uses the tokenizer's template; both are compared below")]


def _check_bos(tokenizer: PreTrainedTokenizerBase, template: str | None) -> Iterator[Finding]:
    """No conversation begins with two BOS tokens."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    ids = render(tokenizer, CONVERSATION, template=template)
    if ids[:2] == [bos, bos]:
        yield error(
            "conversations begin with two BOS tokens",
            got=f"{tokenizer.decode(ids[:6])!r}",
            expected=f"one {tokenizer.bos_token!r}: by the template, or by the tokenizer, not by both",
            fix="take the BOS token out of the chat template",
        )
        return
    again = tokenizer(render_text(tokenizer, CONVERSATION, template=template))["input_ids"]
    if again[:2] == [bos, bos]:
        yield note(
            "rendered text that is tokenized again begins with two BOS tokens",
            got="the template writes one, the tokenizer adds one; the stages here leave it to the template",
            fix="elsewhere: apply_chat_template(tokenize=True), or tokenizer(text, add_special_tokens=False)",
        )


def check_system(material: Material) -> Iterator[Finding]:
    """Where the data has system messages, the template writes them."""
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
            "the chat template refuses system messages, and the data has them",
            got=f"{refusal} ({len(with_system)} of {len(material.sample)} rows looked at)",
            expected="a template that writes them",
            fix="correct the template, or put the system text before the first request in the data",
        )
        return
    if content not in text:
        yield error(
            "the chat template ignores system messages, and the data has them",
            got=f"{len(with_system)} of {len(material.sample)} rows looked at have one",
            expected="a template that writes them",
            fix="correct the template, or put the system text before the first request in the data",
        )


def check_prefix(material: Material) -> Iterator[Finding]:
    """What the model reads at inference is how training writes the same prompt, in text and in tokens."""
    tokenizer, wrong = material.tokenizer, []
    if not tokenizer.chat_template:
        return
    rows = [CONVERSATION, *filter(None, map(conversation_of, material.sample[:PREFIX_ROWS]))]
    for messages in rows:
        try:
            wrong += list(_differences(tokenizer, messages, material.training_template))
        except (TemplateError, TypeError):
            continue  # rows that the template refuses are reported by check_refused
    if wrong:
        yield error(
            "the template writes a prompt otherwise at inference than in training",
            got=wrong[0] + f" ({len(wrong)} replies of {len(rows)} conversations)",
            expected="the prompt with its generation prompt, then the reply",
            fix="let add_generation_prompt write exactly what stands before a reply in training",
        )


def _differences(tokenizer: PreTrainedTokenizerBase, messages: Messages, template: str | None) -> Iterator[str]:
    """For each reply before which training and inference differ: how."""
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
            yield f"the same text in other tokens: inference {left!r}, training {right!r}"


def _common(first: Any, second: Any) -> int:
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def conversation_of(row: dict[str, Any]) -> Messages | None:
    """A canonical row's conversation, ended by a reply where it has one."""
    if "messages" in row:
        return row["messages"]
    if "prompt" in row:
        return row["prompt"] + (row.get("chosen") or row.get("completion") or [])
    return None
