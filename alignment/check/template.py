"""Check the tokenizer and its chat template: special tokens, learned end tokens, and prompts at inference."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.check.findings import Finding, error, from_user_error, note, warning
from alignment.check.material import Material
from alignment.data.reading.row_formats import CONVERSATIONS, PROMPTS
from alignment.data.tokenizing.encoding import (
    encode_conversation,
    render,
    render_text,
    replies_apart,
    training_template,
)
from alignment.errors import UserError
from alignment.tokenization.base import PAD_TOKENS
from alignment.tokenization.chat_format import (
    CONVERSATION,
    REPLY,
    Messages,
    TemplateRefusal,
    end_of_turn_id,
    require_usable_template,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX_ROWS = 50  # conversations to render up to each of their replies


def check_start_tokens(material: Material) -> Iterator[Finding]:
    """Report tokens of `start_tokens_as` that cannot start as their texts."""
    from alignment.stages.keys.start_tokens import check_start_tokens, texts_to_start

    parent = str(material.get("model_name_or_path"))
    try:
        texts = texts_to_start(material.get("start_tokens_as"), parent, material.origin.new_tokens)
        check_start_tokens(texts, parent, material.tokenizer, bool(material.get("use_peft")))
    except UserError as mistake:
        yield from from_user_error(mistake)


def check_special_tokens(material: Material) -> Iterator[Finding]:
    """Report a missing EOS or pad token, pad = EOS, and tokens beyond the model's vocabulary."""
    tokenizer = material.tokenizer
    if tokenizer.eos_token_id is None:
        yield error(
            "the tokenizer has no eos_token",
            got=f"special tokens {', '.join(tokenizer.all_special_tokens) or 'none'}",
            expected="a token that ends a text, which the model learns to stop with",
            fix=_setting(material, "eos_token", _end_token(material)),
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


def _setting(material: Material, key: str, token: str) -> str:
    """Return how to set a special token: in the recipe, if the stage has the key, otherwise in the tokenizer."""
    if any(hasattr(config, key) for config in material.configs):
        return f"{key}: {token!r} in the recipe"
    return f"tokenizer.{key} = {token!r}, then tokenizer.save_pretrained(FOLDER)"


def _end_token(material: Material) -> str:
    """Return the token to end texts with: the one that ends a turn of the template, or a usual name."""
    end = end_of_turn_id(material.tokenizer) if material.formats else None
    return "</s>" if end is None else material.tokenizer.convert_ids_to_tokens(end)


def _spare_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a token of the vocabulary to pad with: one of that name, a reserved one, or that of unknown words."""
    vocabulary, taken = tokenizer.get_vocab(), {tokenizer.eos_token, tokenizer.bos_token}
    reserved = sorted(token for token in tokenizer.get_added_vocab() if "reserved" in token or "unused" in token)
    unknown = [tokenizer.unk_token] if tokenizer.unk_token else []
    return next(
        (token for token in (*PAD_TOKENS, *reserved, *unknown) if token in vocabulary and token not in taken), None
    )


def _check_pad(material: Material) -> Iterator[Finding]:
    """Report a missing pad token, or pad = EOS."""
    tokenizer = material.tokenizer
    spare = _spare_token(tokenizer)
    fix = (
        _setting(material, "pad_token", spare)
        if spare
        else "tokenizer.add_special_tokens({'pad_token': '<|pad|>'}), model.resize_token_embeddings(len(tokenizer)), "
        "then save_pretrained(FOLDER) of both"
    )
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


def find_unusable(
    tokenizer: PreTrainedTokenizerBase, parent: str | None = None, adapter: bool = False
) -> list[Finding]:
    """Report a template that is missing, or that cannot format a conversation.

    Args:
        parent: the path or hub id of the base model that a stage after SFT would start from.
        adapter: whether the stage trains an adapter.
    """
    if not tokenizer.chat_template:
        first = shlex.join(["align", "sft", "--model", parent or "MODEL", "--data", "CONVERSATIONS.jsonl"])
        first = f"run `{first}{' --lora' if adapter else ''}` first, which gives the model a template, and start from "
        first += "its checkpoint; or chat_template_path: FILE.jinja in the sft recipe of a pipeline"
        other = "chat_template_path: FILE.jinja in the sft recipe, or the id of a model with a template to copy"
        missing = error(
            "the tokenizer has no chat template",
            got=tokenizer.name_or_path or None,
            expected="a template, so that training and inference format conversations alike",
            fix=first if parent else other,
        )
        return [missing]
    try:
        require_usable_template(tokenizer)
    except TemplateRefusal as refusal:
        return from_user_error(refusal)
    return []


def check_template(material: Material) -> Iterator[Finding]:
    """Report a faulty template: no end token, an end token outside the loss mask, two BOS tokens."""
    tokenizer = material.tokenizer
    if not material.formats:
        return
    end = end_of_turn_id(tokenizer)
    if end is None:
        after = render_text(tokenizer, CONVERSATION).rpartition(REPLY)[2]
        yield error(
            "the chat template writes no end token after a reply: the model never learns to stop",
            got=f"{after!r} after the last reply",
            expected=f"a special token, such as {tokenizer.eos_token!r}",
            fix=f"chat_template_path: {other} in the sft recipe"
            if (other := template_with_end(tokenizer))
            else "write the end-of-turn token after the content of assistant messages",
        )
    elif material.kind == CONVERSATIONS:
        yield from _check_mask(material, end)
    yield from _check_bos(tokenizer, material.training_template)


def template_with_end(tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """Return the file of TRL's version of the tokenizer's template, if it ends replies with a special token.

    GLM's own template leaves the end of a reply to the next turn's beginning.
    """
    import trl

    template = None
    with suppress(UserError):
        template, _ = training_template(tokenizer, replies_only=True)
    if template is None:
        return None
    after = render_text(tokenizer, CONVERSATION, template=template).rpartition(REPLY)[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    if not {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} & {*ids}:
        return None
    files = Path(str(trl.__file__)).parent.glob("chat_templates/*.jinja")
    return next((file for file in sorted(files) if file.read_text(encoding="utf-8") == template), None)


def _check_mask(material: Material, end: int) -> Iterator[Finding]:
    """Report an end token outside the loss mask, if only replies are learned."""
    if not material.marks:
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


def find_training_template(
    tokenizer: PreTrainedTokenizerBase, replies_only: bool
) -> tuple[str | None, bool, list[Finding]]:
    """Return the template that SFTTrainer uses instead of the tokenizer's, if it marks replies, and findings.

    The template is None if SFTTrainer keeps the tokenizer's.
    """
    from trl import chat_template_utils

    try:
        template, marks = training_template(tokenizer, replies_only)
    except UserError as mistake:
        return None, False, from_user_error(mistake)
    if template is None:
        return None, marks, []
    names = [name for name, value in vars(chat_template_utils).items() if isinstance(value, str) and value == template]
    what = f"TRL trains with its own {names[0] if names else 'version of it'}"
    return template, marks, [note(what, got="inference uses the tokenizer's template; the checks below compare both")]


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
    if not material.formats:
        return
    with_system = [row for row in map(conversation_of, material.sample) if row and row[0]["role"] == "system"]
    if not with_system:
        return
    content = "Speak of zebras only."
    asks = material.kind == PROMPTS  # a template may write the system message only where the last turn is the user's
    conversation = [{"role": "system", "content": content}, *(CONVERSATION[:-1] if asks else CONVERSATION)]
    try:
        text = render_text(tokenizer, conversation, prompt=asks, template=None)
    except TemplateRefusal as refusal:
        yield error(
            "the data has system messages, which the chat template refuses",
            got=f"{refusal.got} ({len(with_system)} of {len(material.sample)} sampled rows)",
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
    """Report prompts that differ between training and inference, in text or in tokens.

    Of the data's own conversations: a template may begin replies with `<think>`, as the data's begin. Rows of prompts
    have no replies; those that are generated follow the prompt of inference.
    """
    if not material.formats or material.kind == PROMPTS:
        return
    wrong: list[str] = []
    rows = [*filter(None, map(conversation_of, material.sample[:PREFIX_ROWS]))]
    for messages in rows:
        with suppress(TemplateRefusal):  # check_refused reports the row
            wrong += _differences(material, messages)
    if wrong:
        yield error(
            "the template writes prompts differently at inference and in training",
            got=wrong[0] + f" ({len(wrong)} replies of {len(rows)} conversations)",
            expected="in training, the prompt with its generation prompt and then the reply",
            fix="begin the data's replies with what add_generation_prompt writes (such as <think>), or let it write "
            "exactly the text before a reply in training",
        )


def _differences(material: Material, messages: Messages) -> Iterator[str]:
    """Describe the difference for each trained reply before which training and inference differ."""
    tokenizer, template = material.tokenizer, material.training_template
    if material.kind == CONVERSATIONS and material.marks and replies_apart(0, messages, tokenizer, template):
        return  # a row per reply begins with the tokens of inference
    whole = render_text(tokenizer, messages, template=template)
    whole_ids = render(tokenizer, messages, template=template)
    replies = [position for position, turn in enumerate(messages) if position and turn["role"] == "assistant"]
    for position in replies if material.kind == CONVERSATIONS else replies[-1:]:
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
