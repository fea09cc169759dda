"""Generation settings in a checkpoint's generation_config.json, generation without them, and tokens that end a reply.

transformers' `generate()` takes every setting that the caller omits from `model.generation_config`: a repetition
penalty, a minimum length or suppressed tokens there change what is sampled, although no command or recipe names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# Settings that only apply while sampling: greedy decoding (`do_sample=False`) ignores them.
SAMPLING = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
# Settings that change speed, memory or what is returned, but not the tokens; and limits that every caller sets.
WITHOUT_EFFECT = (
    "max_length", "max_new_tokens", "use_cache", "cache_implementation", "cache_config", "max_cache_len",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    "compile_config", "disable_compile", "continuous_batching_config", "low_memory", "prefill_chunk_size",
    "transformers_version",
)  # fmt: skip
NEUTRAL = {
    "min_length": 0, "min_new_tokens": 0, "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1,
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0,
    "diversity_penalty": 0.0, "guidance_scale": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
}  # fmt: skip
# Arguments of `generate` for the token ids of one reply to each prompt, whatever a generation config asks for.
ONE_REPLY = {"return_dict_in_generate": False, "num_return_sequences": 1}
USUAL = {"do_sample", "temperature", "top_k", "num_beams", "logits_processor", *ONE_REPLY}  # options of our callers


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a reply, sorted: `generation_config.eos_token_id` and the tokenizer's EOS token."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*ids, tokenizer.eos_token_id] if token is not None})


def set_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the tokenizer's EOS, BOS and PAD ids into a model's config and generation config before training.

    transformers' Trainer does the same, and reports each change as a warning. Ids that end a reply are only added.
    """
    config, generation = model.config.get_text_config(), getattr(model, "generation_config", None)
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        token = getattr(tokenizer, name)
        if token is None:
            continue
        adds = name == "eos_token_id"
        setattr(config, name, _with_token(token, getattr(config, name, None), listed=adds and _is_list(config, name)))
        if generation is not None:
            setattr(generation, name, _with_token(token, getattr(generation, name), listed=adds))


def agree_with_generation(model: PreTrainedModel) -> None:
    """Write the token ids of a model's generation config into its config, before both are saved.

    Other programs read only one of the two: replies are to end alike.
    """
    config, generation = model.config.get_text_config(), getattr(model, "generation_config", None)
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        ids = getattr(generation, name, None)
        if ids is not None:
            setattr(config, name, ids)


def other_token_ids(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Describe the end and start tokens that a model's config.json names differently from its tokenizer."""
    known = config.get_text_config()
    for name in ("eos_token", "bos_token"):
        own, ids = getattr(tokenizer, f"{name}_id"), getattr(known, f"{name}_id", None)
        named = ids if isinstance(ids, list) else [ids]
        if own is not None and ids is not None and own not in named:
            texts = ", ".join(f"{number} ({tokenizer.convert_ids_to_tokens(number)!r})" for number in named)
            yield f"{name} is {texts} in config.json, {own} ({getattr(tokenizer, name)!r}) in the tokenizer"


def _is_list(config: object, name: str) -> bool:
    return isinstance(getattr(config, name, None), list)


def _with_token(token: int, ids: int | list[int] | None, *, listed: bool) -> int | list[int]:
    """The ids if they contain the token, otherwise the token, with the other ids behind it if `listed`."""
    known = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if token in known:
        return ids if ids is not None else token
    return [token, *known] if listed else token


def own_settings(config: GenerationConfig) -> dict[str, Any]:
    """Return the settings of a checkpoint that change which tokens are generated, without ids and neutral values."""
    return {
        name: value
        for name, value in vars(config).items()
        if not (name.startswith("_") or name in TOKEN_IDS or name in WITHOUT_EFFECT)
        and not (value is None or value is False)
        and not (name in NEUTRAL and value == NEUTRAL[name])
    }


@contextmanager
def settings_named(config: GenerationConfig, options: Iterable[str]) -> Iterator[None]:
    """Turn transformers' refusals of generation settings, of a checkpoint or of a task, into a UserError.

    Args:
        config: the model's generation config.
        options: names of the caller's settings.
    """
    try:
        yield
    except (ValueError, TypeError, IndexError, NotImplementedError) as error:
        if not own_settings(config) and USUAL.issuperset(options):
            raise  # not about settings
        raise UserError(
            "The model cannot generate with these settings.",
            got=f"{type(error).__name__}: {error}",
            expected="settings that transformers accepts, in generation_config.json "
            f"({', '.join(own_settings(config)) or 'none there'}) and as options ({', '.join(options) or 'none'})",
            fix="remove the setting that the message is about",
        ) from error


@contextmanager
def plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Generate from the model's own distribution within the context: only token ids of its generation config apply.

    The config is changed in place and restored afterwards, so that an adapter and its base, which share it, see the
    same settings; token ids that are set within the context are kept. A caller that samples has to pass `top_k=0`:
    transformers' default is 50.

    Args:
        model: a model or PEFT model with a `generation_config`.
    """
    from transformers import GenerationConfig

    config = model.generation_config
    own = _replace_settings(config, vars(GenerationConfig()))
    try:
        yield
    finally:
        _replace_settings(config, own)


def _replace_settings(config: GenerationConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """Replace all settings of a config except its token ids, and return the former settings."""
    former = {name: value for name, value in vars(config).items() if name not in TOKEN_IDS}
    for name in former:
        delattr(config, name)
    for name, value in settings.items():
        if name not in TOKEN_IDS:
            setattr(config, name, value)
    return former
