"""Proximal policy optimisation from rewards, on transformers' Trainer.

Trainer's loop asks for micro-batches; the first of a rollout makes the rollout, and each trains on its share of it.
What is random depends on the seed and the step alone, so a run resumed between rollouts repeats the uninterrupted one.
"""

import logging
import os
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    Trainer,
    TrainerState,
    set_seed,
)
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint

from alignment.models.adapters import token_rows_in_place
from alignment.models.loading import load_tokenizer
from alignment.models.router import router_coefficient, weighted_router_loss
from alignment.trainers.ppo import maths
from alignment.trainers.ppo.checks import (
    check_arguments,
    check_prompts,
    check_resumable,
    check_vocabulary,
    check_weights,
    find_eos_token_ids,
)
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.critics import AdapterScorer, CriticCallback, HeadScorer, ModelScorer, make_critic
from alignment.trainers.ppo.experience import Experience, ScoredRollout, make_targets
from alignment.trainers.ppo.log_probs import policy_pass, reference_log_probs
from alignment.trainers.ppo.losses import policy_loss, value_loss
from alignment.trainers.ppo.metrics import (
    Metrics,
    add_policy_metrics,
    add_sample_metrics,
    add_spread,
    completions_table,
    keep_completions_before,
    write_completions,
)
from alignment.trainers.ppo.models import (
    Reference,
    adapter,
    chunked,
    completion_pass,
    disable_dropout,
    inner,
    load_policy,
    only_active_adapter,
    recorded_states,
)
from alignment.trainers.ppo.ptx import PretrainingTexts, mean_token_loss
from alignment.trainers.ppo.rewards import (
    ModelReward,
    ScoredSamples,
    combine,
    make_rewards,
    read_completions,
    score_samples,
)
from alignment.trainers.ppo.rollout import SAMPLERS, Rollout, RolloutSampler, as_rows, encode_prompts, keyed_rng
from alignment.trainers.ppo.schedule import RolloutSchedule
from alignment.trainers.ppo.state import load_state, save_state

PROBED_PROMPTS = 8  # on which it is tried out how reward models read them
logger = logging.getLogger(__name__)


class PPOTrainer(Trainer):
    """Trains a policy to earn reward without straying from a reference, with a critic that predicts the reward.

    Args:
        model: causal LM to train: a path, a model, or a PeftModel whose trainable adapter is trained further.
        reward_funcs: one or a list of: sequence-classification model (path or model), or function, sync or async, with
            TRL's signature `(prompts, completions, completion_ids, **columns) -> list[float | None]`. The path of an
            adapter on the base that the policy's adapter sits on is loaded onto it, so that the base is held once.
        train_dataset: rows with a `prompt` (text or messages); other columns go to the reward functions.
        reward_processing_classes: the reward models' tokenizers, in the order of `reward_funcs` (None: the policy's).
            A model with another vocabulary reads the completions as text.
        value_model: sequence-classification model (path or model) to start the critic from. Default: a copy of the
            reward model if there is exactly one and it reads the policy's tokens, else the policy's trunk with a head
            that says 0.
        ref_model: what the KL is measured against. Default: the policy as it is before training, or the adapter named
            `ref` that it comes with.
        ptx_dataset: rows with a `text` to go on learning from, by `ptx_coef`.
        peft_config: a new adapter to train in place of the whole model.
    """

    loss_is_scaled_for_ga = True  # losses are divided by the token count of the whole optimizer step

    def __init__(
        self,
        model,
        reward_funcs,
        args: PPOConfig | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        reward_processing_classes=None,
        value_model=None,
        ref_model=None,
        ptx_dataset=None,
        callbacks=None,
        optimizers=(None, None),
        peft_config=None,
    ):
        args = PPOConfig(output_dir="ppo") if args is None else args
        check_arguments(args, train_dataset, eval_dataset, optimizers[1])
        set_seed(args.seed)  # a new adapter draws random numbers
        named = model if isinstance(model, str) else model.config.name_or_path
        model = load_policy(model, peft_config).to(args.device)
        processing_class = processing_class or load_tokenizer(named)
        check_vocabulary(processing_class, model)
        check_prompts(args, [train_dataset, eval_dataset], processing_class, inner(model).config)
        self.reference = None
        if args.beta > 0 or ref_model is not None:
            self.reference = Reference(model, ref_model, continues_adapter=peft_config is None)
        rows = eval_dataset if train_dataset is None else train_dataset
        rows = next(iter(rows.values())) if isinstance(rows, dict) else rows
        prompts = [rows[index]["prompt"] for index in range(min(PROBED_PROMPTS, len(rows or ())))]
        self.rewards = make_rewards(reward_funcs, reward_processing_classes, model, processing_class, args, prompts)
        check_weights(args.reward_weights, self.rewards)
        scorers = [one.scorer for one in self.rewards if isinstance(one, ModelReward) and one.reading.knows_tokens]
        self.critic = make_critic(model, scorers, value_model, args.critic_mode)
        self.value_model = self.critic.model.to(args.device)  # of the critic, what is not the policy's
        for scorer in [*scorers, self.critic]:
            check_vocabulary(processing_class, scorer.model)
        self.texts = PretrainingTexts.of(ptx_dataset, processing_class, args)
        disable_dropout(model)
        disable_dropout(self.value_model)
        self.eos_token_ids = find_eos_token_ids(inner(model), processing_class)
        self.router_coefficient = router_coefficient(inner(model).config)
        super().__init__(
            model=model,
            args=args,
            data_collator=as_rows,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if args.activation_checkpointing and isinstance(self.critic, ModelScorer):
            inner(self.value_model).activation_checkpointing_enable(args.activation_checkpointing_kwargs)
        self.add_callback(CriticCallback(self.value_model))
        self.schedule = RolloutSchedule(args, self._total)
        self.experience: Experience | None = None  # the rollout that is being trained on
        self.beta = args.beta
        self.baseline = None if args.reward_normalization else args.reward_baseline
        self._metrics = Metrics()
        self._table: str | None = None  # completions to log
        self._process = () if args.process_index == 0 else (args.process_index,)  # so that processes draw apart
        self._completions_path = os.path.join(args.output_dir, "completions.jsonl")

    # ---- The loop: what Trainer asks for ----

    def get_train_dataloader(self) -> DataLoader:
        """Prompts, a rollout's worth at a time, as often as there are micro-batches to train on them."""
        args = self.args
        self.schedule.restart()
        seed = args.seed if args.data_seed is None else args.data_seed
        # Each process takes every so-many-th batch of this order: its share of the rollout, again and again.
        size = args.rollout_size * args.world_size
        sampler = RolloutSampler(len(self.train_dataset), size, args.micro_steps_per_rollout, seed)
        loader = DataLoader(
            self.train_dataset, batch_size=args.rollout_size, sampler=sampler, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The policy's optimizer, with the critic's parameters added at their own learning rate."""
        trained = self.critic.trained()
        for parameter in trained.values():
            parameter.requires_grad_(False)  # an adapter on the policy's base is not for the policy's groups
        optimizer = super().create_optimizer(model)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        modules = [self.model, self.value_model]
        decayed = {name for module in modules for name in self.get_decay_parameter_names(module)}
        for weight_decay, names in [
            (self.args.weight_decay, trained.keys() & decayed),
            (0.0, trained.keys() - decayed),
        ]:
            if names:
                parameters = [trained[name] for name in trained if name in names]
                group = {"params": parameters, "lr": self.args.value_learning_rate, "weight_decay": weight_decay}
                optimizer.add_param_group(group)
        return optimizer

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """Forward and backward on one micro-batch, before which the first of a rollout makes it from `inputs`."""
        args, started, step = self.args, time.perf_counter(), self.state.global_step
        if self.experience is None or self.schedule.needs_rollout:
            self.experience = self._make_experience(inputs["rows"])
        if self.schedule.needs_step:
            self.schedule.start_step(step)
            self._metrics.add("policy_learns", float(self.schedule.policy_learns))
        rows, num_tokens = self.schedule.next_micro_batch(self.experience, step)
        prepared = time.perf_counter()
        loss = self._backward(model, self.experience.batch(rows), num_tokens)
        if args.world_size > 1 and self.accelerator.sync_gradients:
            self._sum_gradients()
        steps = 1 / args.gradient_accumulation_steps
        self._metrics.add("time/train", time.perf_counter() - prepared, steps)
        self._metrics.add("step_time", time.perf_counter() - started, steps)
        return loss * args.world_size  # Trainer logs the mean over processes of these shares of one sum

    def _backward(self, model, batch: dict[str, Tensor], num_tokens: Tensor) -> Tensor:
        """Forward and backward of policy and critic together, or one by one where adapters share a base."""
        if not isinstance(self.critic, AdapterScorer):
            return super().training_step(model, {"part": "all", **batch}, num_tokens)
        with adapter(self.critic.policy, *self.critic.names):
            loss = super().training_step(model, {"part": "critic", **batch}, num_tokens)
        if self.schedule.policy_learns:
            loss = loss + super().training_step(model, {"part": "policy", **batch}, num_tokens)
        return loss

    def _sum_gradients(self) -> None:
        """Add up the processes' gradients, each of which is divided by the token count of all.

        The passes go around DistributedDataParallel, which knows neither the critic nor two backward passes a step.
        """
        parameters = [*self.model.parameters(), *self.critic.trained().values()]
        for parameter in {id(one): one for one in parameters}.values():
            if parameter.grad is not None:
                parameter.grad = self._total(parameter.grad)

    def _total(self, values: Tensor) -> Tensor:
        """Sums over all processes."""
        return self.accelerator.reduce(values, "sum") if self.args.world_size > 1 else values

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        """Sum of a micro-batch's token losses over the token count of its optimizer step, and its share of the router
        losses if the policy has experts (as in TRL's GRPO; none of the critic, whose experts only follow)."""
        part, learns, critic = inputs["part"], self.schedule.policy_learns, self.critic
        head = critic if isinstance(critic, HeadScorer) else None
        loss, values, router_loss = 0.0, None, None
        with self.accelerator.autocast():
            if part != "critic" and (learns or head is not None):
                # A critic that learns alone must not move the trunk that it shares.
                options = {"output_router_logits": learns} if self.router_coefficient else {}
                with torch.set_grad_enabled(learns), recorded_states(self.model, inputs) as states:
                    logits, router_loss = completion_pass(self.model, inputs, self.args.temperature, **options)
                if learns:
                    loss = loss + self._policy_loss(logits, inputs)
                if head is not None:
                    values = head.of_states(states[0])
            if part != "policy":
                values = critic.outputs(inputs) if values is None else values
                loss = loss + self.args.vf_coef * self._value_loss(values[:, :-1], inputs)
            loss = loss / num_items_in_batch
            if self.router_coefficient and router_loss is not None:
                tokens = inputs["loss_mask"].sum()
                self._metrics.add("loss/router", router_loss.detach() * tokens, tokens)
                loss = loss + weighted_router_loss(router_loss, self.router_coefficient, tokens, num_items_in_batch)
            if self.texts is not None and learns and part != "critic":
                loss = loss + self.args.ptx_coef * self._ptx_loss(self.texts)
        return loss

    def _policy_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        mask = batch["loss_mask"]
        loss = policy_loss(logits, batch, self.args, self.beta)
        self.schedule.step_kl.add((loss.approx_kl * mask).sum(), mask.sum())
        add_policy_metrics(self._metrics, loss, mask)
        return loss.total

    def _value_loss(self, values: Tensor, batch: dict[str, Tensor]) -> Tensor:
        loss, mask = value_loss(values, batch, self.args), batch["loss_mask"]
        self._metrics.add_tokens(mask, {"loss/value": loss})
        return (loss * mask).sum()

    def _ptx_loss(self, texts: PretrainingTexts) -> Tensor | float:
        """Language-model loss on a micro-batch of texts, times its share of the targets of its optimizer step."""
        args, steps = self.args, self.args.gradient_accumulation_steps
        place = args.process_index * steps + self.schedule.place_in_step
        key = ("ptx", args.seed, self.state.global_step)
        batch, share = texts.share(key, place, steps * args.world_size, args.device)
        if not share:  # texts of one token have no target
            return 0.0
        loss = mean_token_loss(self.model, batch)
        self._metrics.add("loss/ptx", loss.detach() * share, share)
        return loss * share

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Sample and score a completion for each prompt, with the same random numbers at every evaluation."""
        metrics, scores, lengths = Metrics(), [], []
        for index, inputs in enumerate(dataloader):
            key = ("evaluation", self.args.seed, index, *self._process)
            samples = self.make_rollout(inputs["rows"], key, metrics).samples
            scores.append(samples.scores)
            lengths.append(samples.rollout.completion_mask.sum(1))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        every_score = torch.cat(scores)
        add_spread(metrics, every_score, torch.cat(lengths), self._total)
        return EvalLoopOutput(None, None, metrics.pop(f"{metric_key_prefix}_"), len(every_score))

    def log(self, logs, start_time=None) -> None:
        if "loss" in logs:  # of training steps; evaluations and the closing summary have none
            logs = {**logs, **self._metrics.pop(), "num_tokens": self.state.num_input_tokens_seen}
            if self._table is not None:
                logger.info("completions up to step %d\n%s", self.state.global_step, self._table)
                self._table = None
        super().log(logs, start_time)

    # ---- Checkpoints ----

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, "trainer_state.json"))
            check_resumable(resume_from_checkpoint, state.global_step, self.args)
            self.beta, self.baseline = load_state(resume_from_checkpoint, self.critic)
            keep_completions_before(self._completions_path, state.global_step)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def save_model(self, output_dir=None, _internal_call=False) -> None:
        """The policy alone, for plain `from_pretrained`; a step checkpoint has the critic's weights beside it."""
        with only_active_adapter(self.model):
            super().save_model(output_dir, _internal_call)
        if _internal_call and self.args.should_save and not self.args.save_only_model:
            save_state(output_dir, self.critic, self.beta, self.baseline)

    # ---- Rollouts ----

    @torch.no_grad()
    def make_rollout(self, rows: list[dict[str, Any]], key: tuple, metrics: Metrics) -> ScoredRollout:
        """Sample a completion per row, score it, compute its log-probabilities and its KL to the reference.

        Args:
            key: seed of the sampler.
            metrics: receives the statistics of the rollout.
        """
        started = time.perf_counter()
        self.model.eval()
        with self.accelerator.autocast():
            rollout = self._sample(rows, key)
            sampled = time.perf_counter()
            given = {"trainer_state": self.state, "log_metric": metrics.add}
            samples = read_completions(rollout, rows, self.processing_class, given)
            rewards = score_samples(self.rewards, samples)
            scores = combine(list(rewards.values()), self.args.reward_weights)
            scored = self._add_log_probs(ScoredSamples(**vars(samples), rewards=rewards, scores=scores), metrics)
        add_sample_metrics(metrics, scored.samples)
        metrics.add("time/generate", sampled - started)
        metrics.add("time/score", time.perf_counter() - sampled)
        return scored

    def _sample(self, rows: list[dict], key: tuple) -> Rollout:
        # Without the autocast that accelerate put around its forward pass: this trainer turns it on where it is wanted.
        args, model = self.args, self.accelerator.unwrap_model(inner(self.model), keep_fp32_wrapper=False)
        pad_token_id = self.processing_class.pad_token_id
        with keyed_rng(model.device, *key), token_rows_in_place(model):
            return SAMPLERS[args.sampler](
                model,
                encode_prompts(rows, self.processing_class),
                max_completion_length=args.max_completion_length,
                temperature=args.temperature,
                eos_token_ids=self.eos_token_ids,
                pad_token_id=self.eos_token_ids[0] if pad_token_id is None else pad_token_id,
            )

    def _add_log_probs(self, samples: ScoredSamples, metrics: Metrics) -> ScoredRollout:
        """Log-probabilities by the forward pass that training uses, not by the sampler's."""
        args, rollout, mask = self.args, samples.rollout, samples.rollout.completion_mask
        log_probs, entropy, outputs = policy_pass(
            self.model, self.critic, rollout, args.temperature, args.per_device_eval_batch_size
        )
        metrics.add_tokens(mask, {"entropy": entropy})
        if self.reference is None:
            return ScoredRollout(samples, log_probs, None, 0.0, outputs)
        ref_log_probs = reference_log_probs(self.reference, rollout, args.temperature, args.per_device_eval_batch_size)
        kl = ((log_probs - ref_log_probs) * mask).sum(1)
        mean_kl = maths.masked_mean(kl, torch.ones_like(kl), self._total).item()
        metrics.add_tokens(mask, {"kl": maths.kl_k3(log_probs, ref_log_probs)})
        metrics.add("kl/completion", mean_kl * len(kl), len(kl))
        return ScoredRollout(samples, log_probs, ref_log_probs, mean_kl, outputs)

    def _make_experience(self, rows: list[dict[str, Any]]) -> Experience:
        """A rollout with the targets of the losses; it also adapts beta, and sets the baseline if there is none yet."""
        args, metrics, step = self.args, self._metrics, self.state.global_step
        scored = self.make_rollout(rows, ("rollout", args.seed, step, *self._process), metrics)
        rollout, samples, scores = scored.rollout, scored.samples, scored.samples.scores
        add_spread(metrics, scores, rollout.completion_mask.sum(1), self._total)
        self.state.num_input_tokens_seen += int(self._total(rollout.lengths.sum()))
        if args.log_completions:
            write_completions(self._completions_path, samples, step)
            self._table = completions_table(samples, args.num_completions_to_print)
        if scores.isnan().all():
            logger.warning("step %d: no reward judged any completion, so that they teach nothing", step)
        started = time.perf_counter()
        outputs = self._critic_outputs(scored)
        if self.baseline is None:
            self.baseline = maths.masked_mean(scores.nan_to_num(), ~scores.isnan(), self._total).item()
        kl, ref_log_probs = torch.zeros_like(scored.log_probs), scored.ref_log_probs
        if ref_log_probs is not None and args.kl_placement == "reward":
            kl, ref_log_probs = maths.KL_ESTIMATORS[args.kl_estimator](scored.log_probs, ref_log_probs), None
        targets = make_targets(rollout, scores, kl, outputs, args, self.beta, self.baseline, metrics, self._total)
        metrics.add("kl_coef", self.beta)
        if args.kl_target is not None:
            count = args.rollout_size * args.world_size
            self.beta = maths.adapted_coefficient(self.beta, scored.kl, args.kl_target, args.kl_horizon, count)
        metrics.add("time/score", time.perf_counter() - started, weight=0)
        return Experience(rollout, targets, scored.log_probs, ref_log_probs)

    def _critic_outputs(self, scored: ScoredRollout) -> Tensor:
        """The critic's values before each completion token and after the last. -> [B, T + 1]."""
        if scored.critic_outputs is not None:
            return scored.critic_outputs
        self.value_model.eval()
        with self.accelerator.autocast():
            outputs = chunked(self.critic.outputs, scored.rollout, self.args.per_device_eval_batch_size, extra=1)
        self.value_model.train()
        return outputs
