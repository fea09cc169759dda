"""Proximal policy optimisation from rewards, on transformers' Trainer.

Trainer's loop calls `training_step` per micro-batch. The first micro-batch of a rollout makes the rollout, and each
trains on its share of it. Random numbers depend only on the seed and the step, so that a run that resumes between two
rollouts repeats the uninterrupted run.
"""

import logging
import os
import time
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerControl, TrainerState, set_seed
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint

from alignment.keyed_seeds import keyed_rng
from alignment.models.adapters import token_rows_in_place
from alignment.models.loading import load_tokenizer
from alignment.models.router import router_coefficient, weighted_router_loss
from alignment.trainers.ppo import checks, maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.experience import Experience, ScoredRollout, add_log_probs, make_targets
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
    Model,
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
    RewardFunc,
    first_prompts,
    make_rewards,
    read_completions,
    score_samples,
)
from alignment.trainers.ppo.rollout import SAMPLERS, Rollout, RolloutSampler, as_rows, encode_prompts
from alignment.trainers.ppo.schedule import RolloutSchedule
from alignment.trainers.ppo.scorers import (
    AdapterScorer,
    CriticCallback,
    HeadScorer,
    ModelScorer,
    make_critic,
    parameter_groups,
)
from alignment.trainers.ppo.state import load_state, save_state
from reward_models.opinions import Opinions

logger = logging.getLogger(__name__)


class PPOTrainer(Trainer):
    """Trains a policy to earn reward while it stays close to a reference; a critic predicts the reward.

    Args:
        model: causal LM to train: a path, a model, or a PeftModel whose trainable adapter is trained further.
        reward_funcs: a reward or a list of rewards. A reward is a sequence-classification model (path or model), or a
            function, sync or async, with TRL's signature `(prompts, completions, completion_ids, **columns) ->
            list[float | None]`. If a path is an adapter on the base of the policy's adapter, it is loaded onto the
            policy, so that the base is held once.
        train_dataset: rows with a `prompt` (text or messages); the reward functions receive the other columns.
        reward_processing_classes: tokenizers of the reward models, in the order of `reward_funcs` (None: the
            reward model's own, otherwise the policy's). A model with another vocabulary reads the completions as text.
        value_model: sequence-classification model (path or model) to start the critic from. Default: a copy of the
            reward model if there is exactly one and it reads the policy's tokens, else the policy's trunk with a head
            that outputs 0.
        ref_model: model that the KL is measured against. Default: the policy before training, or its adapter `ref`.
        ptx_dataset: rows with a `text` for the language-model loss that `ptx_coef` weights.
        peft_config: config of a new adapter to train instead of the whole model.

    Attributes:
        schedule: which micro-batch is next, and what learns in the current optimizer step.
        experience: the rollout that is being trained on; None before the first.
        beta: weight of the KL to the reference, which `kl_target` adapts.
        baseline: subtracted from the scores; None until the first rollout sets it.
    """

    control: TrainerControl
    loss_is_scaled_for_ga = True  # losses are already divided by the token count of the whole optimizer step

    def __init__(
        self,
        model: str | Model,
        reward_funcs: RewardFunc | list[RewardFunc],
        args: PPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: checks.Datasets = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: PreTrainedTokenizerBase | list[PreTrainedTokenizerBase | None] | None = None,
        value_model: str | Model | None = None,
        ref_model: str | Model | None = None,
        ptx_dataset: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: PeftConfig | None = None,
    ) -> None:
        args = PPOConfig(output_dir="ppo") if args is None else args
        checks.check_arguments(args, train_dataset, eval_dataset, optimizers[1])
        set_seed(args.seed)  # a new adapter draws random numbers
        named = model if isinstance(model, str) else model.config.name_or_path
        model = load_policy(model, peft_config).to(args.device)
        processing_class = processing_class or load_tokenizer(named)
        checks.check_vocabulary(processing_class, model)
        checks.check_prompts(args, [train_dataset, eval_dataset], processing_class, inner(model).config)
        self.reference: Reference | None = None
        if args.beta > 0 or ref_model is not None:
            self.reference = Reference(model, ref_model, continues_adapter=peft_config is None)
        prompts = first_prompts(eval_dataset if train_dataset is None else train_dataset)
        self.rewards = make_rewards(reward_funcs, reward_processing_classes, model, processing_class, args, prompts)
        checks.check_weights(args.reward_weights, self.rewards)
        checks.check_columns(self.rewards, [train_dataset, eval_dataset])
        self.opinions = Opinions([reward.name for reward in self.rewards])
        scorers = [reward.scorer for reward in self.rewards if isinstance(reward, ModelReward) and reward.knows_tokens]
        self.critic = make_critic(model, scorers, value_model, args.critic_mode)
        self.value_model = self.critic.model.to(args.device)  # the critic without the policy's weights
        for scorer in [*scorers, self.critic]:
            checks.check_vocabulary(processing_class, scorer.model)
        self.texts = PretrainingTexts.of(ptx_dataset, processing_class, args)
        disable_dropout(model)
        disable_dropout(self.value_model)
        self.eos_token_ids = checks.find_eos_token_ids(inner(model), processing_class)
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
        checks.check_whole_models(args, self.accelerator)
        if args.activation_checkpointing and isinstance(self.critic, ModelScorer):
            inner(self.value_model).activation_checkpointing_enable(args.activation_checkpointing_kwargs)
        self.add_callback(CriticCallback(self.value_model))
        self.schedule = RolloutSchedule(args, self._total)
        self.experience: Experience | None = None
        self.beta = args.beta
        self.baseline = None if args.reward_normalization else args.reward_baseline
        self._metrics = Metrics()
        self._table: str | None = None  # completions to log next
        self._process = () if args.process_index == 0 else (args.process_index,)  # part of the key of random numbers
        self._completions_path = os.path.join(args.output_dir, "completions.jsonl")

    # ---- Training loop ----

    def get_train_dataloader(self) -> DataLoader:
        """Prompts, a rollout per batch, repeated once per micro-batch that is trained on them."""
        args = self.args
        self.schedule.restart()
        seed = args.seed if args.data_seed is None else args.data_seed
        # Process k of n takes batches k, k + n, ...: its share of the rollout, once per micro-batch.
        size = args.rollout_size * args.world_size
        sampler = RolloutSampler(len(self.train_dataset), size, args.micro_steps_per_rollout, seed)
        loader = DataLoader(
            self.train_dataset, batch_size=args.rollout_size, sampler=sampler, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The policy's optimizer, with the critic's parameters at their own learning rate."""
        trained = self.critic.trained()
        for parameter in trained.values():
            parameter.requires_grad_(False)  # keeps a critic's adapter on the policy's base out of the policy's groups
        optimizer = super().create_optimizer(model)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        modules = [self.model, self.value_model]
        decayed = {name for module in modules for name in self.get_decay_parameter_names(module)}
        for group in parameter_groups(self.critic, decayed, self.args.value_learning_rate, self.args.weight_decay):
            optimizer.add_param_group(group)
        return optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward on a micro-batch; the first of a rollout makes the rollout from the prompts `inputs`."""
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
        return loss * args.world_size  # Trainer logs the mean over processes; their losses are shares of a sum

    def _backward(self, model: nn.Module, batch: dict[str, Tensor], num_tokens: Tensor) -> Tensor:
        """Forward and backward of policy and critic, one after the other if their adapters share a base."""
        if not isinstance(self.critic, AdapterScorer):
            return super().training_step(model, {"part": "all", **batch}, num_tokens)
        with adapter(self.critic.policy, *self.critic.names):
            loss = super().training_step(model, {"part": "critic", **batch}, num_tokens)
        if self.schedule.policy_learns:
            loss = loss + super().training_step(model, {"part": "policy", **batch}, num_tokens)
        return loss

    def _sum_gradients(self) -> None:
        """Sum the gradients over the processes; each is already divided by the token count of all processes.

        The passes bypass DistributedDataParallel, which covers neither the critic nor two backward passes per step.
        """
        parameters = [*self.model.parameters(), *self.critic.trained().values()]
        for parameter in {id(parameter): parameter for parameter in parameters}.values():
            if parameter.grad is not None:
                parameter.grad = self._total(parameter.grad)

    def _total(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        return self.accelerator.reduce(values, "sum") if self.args.world_size > 1 else values

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """A micro-batch's share of the loss of its optimizer step: the sum of its token losses over the step's tokens.

        A policy with experts adds its share of the router losses, as in TRL's GRPO; a critic adds none.

        Args:
            inputs: rows of `Experience.batch`, and as `part` what to compute: all, policy or critic.
            num_items_in_batch: token count of the optimizer step.
        """
        part, learns, critic = inputs["part"], self.schedule.policy_learns, self.critic
        head = critic if isinstance(critic, HeadScorer) else None
        loss: Any = 0.0
        values: Any = None
        router_loss: Tensor | None = None
        with self.accelerator.autocast():
            if part != "critic" and (learns or head is not None):
                # A critic that learns alone must not change the trunk that it shares.
                options = {"output_router_logits": learns} if self.router_coefficient else {}
                with torch.set_grad_enabled(learns), recorded_states(self.model, inputs) as states:
                    logits, router_loss = completion_pass(self.model, inputs, self.args.temperature, **options)
                if learns:
                    loss = loss + self._policy_loss(logits, inputs)
                if head is not None:
                    values = head.of_states(states[0])
            if part != "policy":
                values = values if isinstance(critic, HeadScorer) else critic.outputs(inputs)
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
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Sample and score a completion per prompt, with the same random numbers at every evaluation."""
        metrics, scores, lengths = Metrics(), [], []
        self.callback_handler.eval_dataloader = dataloader
        for index, inputs in enumerate(dataloader):
            key = ("evaluation", self.args.seed, index, *self._process)
            samples = self.make_rollout(inputs["rows"], key, metrics).samples
            scores.append(samples.scores)
            lengths.append(samples.rollout.completion_mask.sum(1))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        every_score = torch.cat(scores)
        add_spread(metrics, every_score, torch.cat(lengths), self._total)
        return EvalLoopOutput(None, None, metrics.pop(f"{metric_key_prefix}_"), len(every_score))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # logs of training steps, unlike those of evaluations and the final summary
            logs = {**logs, **self._metrics.pop(), "num_tokens": self.state.num_input_tokens_seen}
            if self._table is not None:
                logger.info("completions up to step %d\n%s", self.state.global_step, self._table)
                self._table = None
        super().log(logs, start_time)

    # ---- Checkpoints ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        last = resume_from_checkpoint is True
        checkpoint: Any = get_last_checkpoint(self.args.output_dir) if last else resume_from_checkpoint
        if checkpoint:
            state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
            checks.check_resumable(checkpoint, state.global_step, self.args)
            self.beta, self.baseline = load_state(checkpoint, self.critic)
            keep_completions_before(self._completions_path, state.global_step)
        output = super().train(checkpoint, trial, ignore_keys_for_eval)
        self.opinions.require_any(self.state.log_history)
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy alone, for plain `from_pretrained`; a step checkpoint also has the state of PPO."""
        with only_active_adapter(self.model):
            super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir and self.args.should_save and not self.args.save_only_model:
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
            unscored = read_completions(rollout, rows, self.processing_class, given)
            samples = score_samples(self.rewards, unscored, self.args.reward_weights)
            scored = add_log_probs(samples, self.model, self.critic, self.reference, self.args, metrics, self._total)
        add_sample_metrics(metrics, samples)
        metrics.add("time/generate", sampled - started)
        metrics.add("time/score", time.perf_counter() - sampled)
        return scored

    def _sample(self, rows: list[dict], key: tuple) -> Rollout:
        # Unwrapped: accelerate's wrapper would put autocast around every forward pass, also where it must be off.
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

    def _make_experience(self, rows: list[dict[str, Any]]) -> Experience:
        """Make a rollout with the targets of its losses; adapt beta, and set the baseline if it is not set yet."""
        args, metrics, step = self.args, self._metrics, self.state.global_step
        scored = self.make_rollout(rows, ("rollout", args.seed, step, *self._process), metrics)
        rollout, samples, scores = scored.rollout, scored.samples, scored.samples.scores
        add_spread(metrics, scores, rollout.completion_mask.sum(1), self._total)
        self.state.num_input_tokens_seen += int(self._total(rollout.lengths.sum()))
        if args.log_completions:
            write_completions(self._completions_path, samples, step)
            self._table = completions_table(samples, args.num_completions_to_print)
        if scores.isnan().all():
            logger.warning("step %d: no reward scored any completion: nothing is learned from this rollout", step)
        self.opinions.see(*self._total(torch.tensor([len(rows), (~scores.isnan()).sum()], device=args.device)).tolist())
        started = time.perf_counter()
        outputs = self._critic_outputs(scored)
        if self.baseline is None:
            self.baseline = maths.masked_mean(scores.nan_to_num(), ~scores.isnan(), self._total).item()
        kl = scored.charged_kl(args)
        targets = make_targets(rollout, scores, kl, outputs, args, self.beta, self.baseline, metrics, self._total)
        metrics.add("kl_coef", self.beta)
        if args.kl_target is not None:
            count = args.rollout_size * args.world_size
            self.beta = maths.adapted_coefficient(self.beta, scored.kl, args.kl_target, args.kl_horizon, count)
        metrics.add("time/score", time.perf_counter() - started, weight=0)
        ref_log_probs = scored.ref_log_probs if args.kl_placement == "loss" else None
        return Experience(rollout, targets, scored.log_probs, ref_log_probs)

    def _critic_outputs(self, scored: ScoredRollout) -> Tensor:
        """The critic's values before each completion token and after the last. -> [B, T + 1]."""
        critic = self.critic
        if isinstance(critic, HeadScorer):
            return cast(Tensor, scored.critic_outputs)  # from the policy's forward pass
        self.value_model.eval()
        with self.accelerator.autocast():
            outputs = chunked(critic.outputs, scored.rollout, self.args.per_device_eval_batch_size, extra=1)
        self.value_model.train()
        return outputs
