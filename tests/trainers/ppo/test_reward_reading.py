"""A reward model is read where TRL trained it: by PPO, as a function and by the classifier itself, for any template."""

import pytest
import torch
from check_cases import CHATML, foreign_tokenizer
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from shipped_templates import SHIPPED, classifier
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from trl import RewardConfig, RewardTrainer

from alignment.tokenization.chat_format import chat_eos_ids
from alignment.tokenization.reward_rows import ending_of_tokens, padding_id, reply_ending, reward_rows, score_index
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.rewards import Samples, make_rewards
from alignment.trainers.ppo.rollout import Rollout, encode_prompts
from reward_models.learned import LearnedReward, load_members

LIKE = {
    # An empty reasoning is written before a reply that has none.
    "qwen3": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n"
    "</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "gemma-like": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}"
    "\n{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}",
    "llama3-like": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}<s>\n\n{{ m.content | trim }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<s>\n\n{% endif %}",
    "mistral-like": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
    # The space that ends the prompt and the first word of a reply are one token in training.
    "nothing-after": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "chatml": CHATML,
}
TEMPLATES = {**{f"shipped-{name}": text for name, text in SHIPPED.items()}, **LIKE}
REPLIES = ["Zebra stone river.", "Kite.", "Bread and lamp and cloud and door and horse.", "Apple zebra"]
REQUESTS = ["Say zebra.", "Say a river and a stone and a lamp.", "Kite?", "Door, bread and horse, and more of them."]


def tokenizer_of(template: str, pad: str):
    result = foreign_tokenizer(template, bos="bos_token" in template, pad_token=pad)
    # Templates name tokens that this vocabulary lacks.
    wanted = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<start_of_turn>", "<end_of_turn>")
    wanted += ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    result.add_special_tokens({"extra_special_tokens": [token for token in wanted if token in template]})
    return result


def lead(tokenizer, prompt) -> str:
    """The tokens that the policy samples before the text of a reply: the space that some templates write there."""
    if isinstance(prompt, str):
        return ""
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": "zebra"}], tokenize=False)
    return whole[len(before) : whole.rindex("zebra")]


def samples_of(tokenizer, prompts, replies, ended) -> Samples:
    """A rollout as the policy would have sampled it, with ragged prompts and completions."""
    end = chat_eos_ids(tokenizer)[-1]
    heads = encode_prompts([{"prompt": prompt} for prompt in prompts], tokenizer)
    tails = [
        tokenizer(lead(tokenizer, prompts[0]) + reply, add_special_tokens=False)["input_ids"] + [end] * done
        for reply, done in zip(replies, ended, strict=True)
    ]
    length, width = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)), max(map(len, tails))
    ids = torch.zeros(len(heads), length, dtype=torch.long)
    mask, completion = torch.zeros(len(heads), length).bool(), torch.zeros(len(heads), width).bool()
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        ids[row, length - len(head) - len(tail) :] = torch.tensor(head + tail)
        mask[row, length - len(head) - len(tail) :] = True
        completion[row, width - len(tail) :] = True
    texts = [[{"role": "assistant", "content": reply}] for reply in replies]
    rows = [{"prompt": prompt} for prompt in prompts]
    return Samples(Rollout(ids, mask, completion, torch.tensor(ended)), rows, texts, {}, {})


@pytest.mark.parametrize("pad", ["<|pad|>", "<|im_end|>"], ids=["own-pad", "pad-is-eos"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_reader_gives_the_score_of_the_trained_row(name, pad, tmp_path):
    tokenizer = tokenizer_of(TEMPLATES[name], pad)
    prompts = [[{"role": "user", "content": request}] for request in REQUESTS]
    replies = [[{"role": "assistant", "content": reply}] for reply in REPLIES]
    model = classifier(tokenizer)
    args = RewardConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=None)
    pairs = Dataset.from_dict({"prompt": prompts, "chosen": replies, "rejected": replies[::-1]})
    trained_on = RewardTrainer(model, args, train_dataset=pairs, processing_class=tokenizer).train_dataset["chosen_ids"]
    with torch.no_grad():  # the classifier's own rule, without padding or neighbours
        trained = torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in trained_on])
    learned = torch.tensor(LearnedReward(model, tokenizer, batch_size=3)(prompts, replies))
    torch.testing.assert_close(learned, trained, atol=1e-5, rtol=1e-5)
    for batch_size in (1, 3, 8):
        config = PPOConfig(str(tmp_path), use_cpu=True, per_device_eval_batch_size=batch_size)
        [reward] = make_rewards(model, tokenizer, LlamaForCausalLM(model.config), tokenizer, config, prompts)
        for ended in ([True] * 4, [True, False, True, False], [False] * 4):
            found = reward(samples_of(tokenizer, prompts, REPLIES, ended))
            torch.testing.assert_close(found, trained, atol=1e-5, rtol=1e-5)
    assert trained.std() > 1e-3


def test_sampled_ids_are_read_directly_if_the_template_allows_it(tmp_path):
    """Replies are read as text only if the template writes them differently from the sampled ids."""
    as_text = set()
    for name, template in TEMPLATES.items():
        tokenizer = tokenizer_of(template, "<|pad|>")
        config = PPOConfig(str(tmp_path), use_cpu=True)
        model = classifier(tokenizer)
        prompts = [[{"role": "user", "content": REQUESTS[0]}]]
        [reward] = make_rewards(model, tokenizer, LlamaForCausalLM(model.config), tokenizer, config, prompts)
        if reward.reading.ending is None:
            as_text.add(name)
    assert as_text == {"qwen3", "nothing-after"}


def test_an_adapter_on_the_policys_base_is_read_as_the_classifier_reads_it(tmp_path):
    tokenizer = tokenizer_of(CHATML, "<|pad|>")
    base = LlamaForCausalLM(classifier(tokenizer).config)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    whole = LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    adapted = get_peft_model(whole, config)
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    policy = get_peft_model(
        LlamaForCausalLM.from_pretrained(tmp_path / "base"), LoraConfig(r=2, target_modules="all-linear")
    )
    prompts = [[{"role": "user", "content": request}] for request in REQUESTS]
    replies = [[{"role": "assistant", "content": reply}] for reply in REPLIES]
    [learned] = load_members([str(tmp_path / "judge")], batch_size=2)
    config = PPOConfig(str(tmp_path), use_cpu=True, per_device_eval_batch_size=2)
    [reward] = make_rewards(str(tmp_path / "judge"), None, policy, tokenizer, config, prompts)
    found = reward(samples_of(tokenizer, prompts, REPLIES, [True, False, True, True]))
    assert type(reward.scorer).__name__ == "AdapterScorer"
    torch.testing.assert_close(found, torch.tensor(learned(prompts, replies)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad", ["<|pad|>", "<|im_end|>"], ids=["own-pad", "pad-is-eos"])
def test_plain_text_is_read_after_its_end_token(pad, tmp_path):
    tokenizer = foreign_tokenizer(None, pad_token=pad)
    model = classifier(tokenizer)
    prompts, replies = REQUESTS, [f" {reply}" for reply in REPLIES]
    config = PPOConfig(str(tmp_path), use_cpu=True, per_device_eval_batch_size=2)
    [reward] = make_rewards(model, tokenizer, LlamaForCausalLM(model.config), tokenizer, config, prompts)
    with torch.no_grad():
        rows = reward_rows(tokenizer, prompts, replies)
        trained = torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in rows])
    samples = samples_of(tokenizer, prompts, replies, [True, False, False, True])
    samples.completions = replies
    torch.testing.assert_close(reward(samples), trained, atol=1e-5, rtol=1e-5)


def test_rows_beyond_the_reward_models_context_have_no_score(tmp_path, caplog):
    tokenizer = tokenizer_of(CHATML, "<|pad|>")
    model = classifier(tokenizer)
    prompts = [[{"role": "user", "content": request}] for request in ("Kite?", "Kite " * 200)]
    config = PPOConfig(str(tmp_path), use_cpu=True)
    [reward] = make_rewards(model, tokenizer, LlamaForCausalLM(model.config), tokenizer, config, prompts)
    found = reward(samples_of(tokenizer, prompts, ["Zebra.", "Zebra."], [True, True]))
    assert found.isnan().tolist() == [False, True]
    assert "1 of 2 completions not scored, because they are longer than its 128 positions" in caplog.text


def test_score_index_by_hand():
    ids = torch.tensor([[9, 9, 5, 6, 7], [0, 0, 4, 9, 9], [9, 9, 9, 9, 9], [3, 4, 5, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert score_index(ids, mask, 9).tolist() == [4, 2, 0, 2]
    assert score_index(ids, mask, None).tolist() == [4, 4, 4, 2]


def test_the_padding_token_is_the_configs_then_the_tokenizers_then_the_end():
    tokenizer = foreign_tokenizer(CHATML, pad_token=None)
    end = tokenizer.eos_token_id
    assert padding_id(None, tokenizer) == end and padding_id(LlamaConfig(pad_token_id=0), tokenizer) == 0
    tokenizer.pad_token = "<|pad|>"
    assert padding_id(LlamaConfig(), tokenizer) == tokenizer.pad_token_id != end


def test_the_ending_that_chatml_writes_after_a_reply():
    tokenizer = foreign_tokenizer(SHIPPED["chatml"])
    assert tokenizer.decode(reply_ending(tokenizer, [{"role": "user", "content": "Hello"}])) == "<|im_end|>\n"
    assert reply_ending(tokenizer, "Hello") == [tokenizer.eos_token_id]


def test_a_single_prompt_that_differs_makes_the_model_read_text():
    for template in (None, CHATML):
        tokenizer = foreign_tokenizer(template, pad_token="<|pad|>")
        prompts = [[{"role": "user", "content": text}] if template else text for text in REQUESTS]
        ids = encode_prompts([{"prompt": prompt} for prompt in prompts], tokenizer)
        assert ending_of_tokens(tokenizer, prompts, ids) == reply_ending(tokenizer, prompts[0])
        for place in range(len(ids)):
            other = [*ids[:place], [*ids[place][:-1], ids[place][-1] + 1], *ids[place + 1 :]]
            assert ending_of_tokens(tokenizer, prompts, other) is None


def test_rows_of_text_end_with_a_single_end_token_and_no_texts_give_no_rows():
    tokenizer = foreign_tokenizer(None, pad_token="<|pad|>")
    end = tokenizer.eos_token_id
    [plain, ended] = reward_rows(tokenizer, ["Kite?", "Kite?"], [" Zebra.", f" Zebra.{tokenizer.eos_token}"])
    assert plain == ended and plain.count(end) == 1 and plain[-1] == end
    assert reward_rows(tokenizer, [], []) == []
    tokenizer.eos_token = None
    assert reward_rows(tokenizer, ["Kite?"], [" Zebra."]) == [plain[:-1]] and reply_ending(tokenizer, "Kite?") == []


def test_a_vocabulary_without_capitals_is_probed_with_its_own_letters(tmp_path):
    from string import ascii_lowercase

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from alignment.tokenization.base import make_chat_ready

    letters = ["<pad>", "<eos>", "<unk>", *ascii_lowercase, " ", "\n"]
    backend = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate(letters)}, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    make_chat_ready(tokenizer)
    model = classifier(tokenizer)
    prompts = [[{"role": "user", "content": "say zebra"}]]
    config = PPOConfig(str(tmp_path), use_cpu=True)
    [reward] = make_rewards(model, tokenizer, LlamaForCausalLM(model.config), tokenizer, config, prompts)
    assert tokenizer.decode(reward.reading.ending) == "<|im_end|>\n"
