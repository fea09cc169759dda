"""Proximal policy optimisation from rewards, on transformers' Trainer.

Trainer's loop asks for micro-batches; the first of a rollout makes the rollout, and each trains on its share of it.
What is random depends on the seed and the step alone, so a run resumed between rollouts repeats the uninterrupted one.
"""

import json
import logging
import os
import time

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, set_seed
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint

from alignment.keyed_seeds import keyed_generator, keyed_rng
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
from alignment.trainers.ppo.critics import AdapterScorer, CriticCallback, ModelScorer, make_critic
from alignment.trainers.ppo.experience import add_advantages
from alignment.trainers.ppo.metrics import (
    Metrics,
    WeightedMean,
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
    completion_logits,
    completion_logits_and_states,
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
    Samples,
    combine,
    make_rewards,
    read_completions,
    score_samples,
)
from alignment.trainers.ppo.rollout import (
    SAMPLERS,
    Rollout,
    RolloutSampler,
    as_rows,
    encode_prompts,
)

CRITIC_FILE = "value_model.safetensors"
PROBED_PROMPTS = 8  # on which it is tried out how reward models read them
STATE_FILE = "ppo_state.json"  # what else a resumed run needs: the adaptive beta and the rewards' baseline
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
        self._metrics = Metrics()
        self._micro_step = 0  # of the rollout
        self._shown = None  # completions to log
        self._process = () if args.process_index == 0 else (args.process_index,)  # so that processes draw apart
        self._completions_path = os.path.join(args.output_dir, "completions.jsonl")
        self.beta = args.beta
        self.baseline = None if args.reward_normalization else args.reward_baseline

    # ---- The loop: what Trainer asks for ----

    def get_train_dataloader(self) -> DataLoader:
        """Prompts, a rollout's worth at a time, as often as there are micro-batches to train on them."""
        args = self.args
        self._micro_step = 0
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
        args, started = self.args, time.perf_counter()
        if self._micro_step == 0:
            self._rollout = self._make_training_rollout(inputs["rows"])
        if self._micro_step % args.gradient_accumulation_steps == 0:
            self._decide_what_learns()
        rows, num_tokens = self._next_micro_batch()
        prepared = time.perf_counter()
        loss = self._backward(model, self._rollout.batch(rows), num_tokens)
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
        if self._policy_learns:
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
        loss, values, router_loss = 0.0, None, None
        with self.accelerator.autocast():
            if inputs["part"] != "critic" and (self._policy_learns or self.critic.shares_trunk):
                # A critic that learns alone must not move the trunk that it shares.
                options = {"output_router_logits": self._policy_learns} if self.router_coefficient else {}
                with torch.set_grad_enabled(self._policy_learns), recorded_states(self.model, inputs) as states:
                    logits, router_loss = completion_pass(self.model, inputs, self.args.temperature, **options)
                if self._policy_learns:
                    loss = loss + self._policy_loss(logits, inputs)
                if self.critic.shares_trunk:
                    values = self.critic.of_states(states[0])
            if inputs["part"] != "policy":
                values = self.critic.outputs(inputs) if values is None else values
                loss = loss + self.args.vf_coef * self._value_loss(values[:, :-1], inputs)
            loss = loss / num_items_in_batch
            if self.router_coefficient and router_loss is not None:
                tokens = inputs["loss_mask"].sum()
                self._metrics.add("loss/router", router_loss.detach() * tokens, tokens)
                loss = loss + weighted_router_loss(router_loss, self.router_coefficient, tokens, num_items_in_batch)
            if self.texts is not None and self._policy_learns and inputs["part"] != "critic":
                loss = loss + self.args.ptx_coef * self._ptx_loss()
        return loss

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Sample and score a completion for each prompt, with the same random numbers at every evaluation."""
        metrics, scores, lengths = Metrics(), [], []
        for index, inputs in enumerate(dataloader):
            key = ("evaluation", self.args.seed, index, *self._process)
            rollout, samples, _ = self._make_rollout(inputs["rows"], key, metrics)
            scores.append(samples.scores)
            lengths.append(rollout.completion_mask.sum(1))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        scores = torch.cat(scores)
        add_spread(metrics, scores, torch.cat(lengths), self._total)
        return EvalLoopOutput(None, None, metrics.pop(f"{metric_key_prefix}_"), len(scores))

    def log(self, logs, start_time=None) -> None:
        if "loss" in logs:  # of training steps; evaluations and the closing summary have none
            logs = {**logs, **self._metrics.pop(), "num_tokens": self.state.num_input_tokens_seen}
            if self._shown is not None:
                logger.info("completions up to step %d\n%s", self.state.global_step, self._shown)
                self._shown = None
        super().log(logs, start_time)

    # ---- Checkpoints ----

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, "trainer_state.json"))
            step = state.global_step
            check_resumable(resume_from_checkpoint, step, self.args)
            saved = load_file(os.path.join(resume_from_checkpoint, CRITIC_FILE))
            with torch.no_grad():
                for name, parameter in self.critic.trained().items():
                    parameter.copy_(saved[name])
            with open(os.path.join(resume_from_checkpoint, STATE_FILE), encoding="utf-8") as file:
                state = json.load(file)
            self.beta, self.baseline = state["beta"], state["baseline"]
            keep_completions_before(self._completions_path, step)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def save_model(self, output_dir=None, _internal_call=False) -> None:
        """The policy alone, for plain `from_pretrained`; a step checkpoint has the critic's weights beside it."""
        with only_active_adapter(self.model):
            super().save_model(output_dir, _internal_call)
        if _internal_call and self.args.should_save and not self.args.save_only_model:
            save_file(self.critic.trained(), os.path.join(output_dir, CRITIC_FILE))
            with open(os.path.join(output_dir, STATE_FILE), "w", encoding="utf-8") as file:
                json.dump({"beta": self.beta, "baseline": self.baseline}, file)

    # ---- Rollouts ----

    @torch.no_grad()
    def _make_rollout(self, rows: list[dict], key: tuple, metrics: Metrics) -> tuple[Rollout, Samples, Tensor | None]:
        """Completions with their scores, log-probabilities and KL to the reference; metrics of all of these.

        A critic whose head is on the policy's trunk gives its outputs in the same pass.
        """
        started = time.perf_counter()
        self.model.eval()
        with self.accelerator.autocast():
            rollout = self._sample(rows, key)
            sampled = time.perf_counter()
            told = {"trainer_state": self.state, "log_metric": metrics.add}
            samples = read_completions(rollout, rows, self.processing_class, told)
            samples.rewards = score_samples(self.rewards, samples)
            samples.scores = combine(list(samples.rewards.values()), self.args.reward_weights)
            outputs = self._add_log_probs(rollout, metrics)
        add_sample_metrics(metrics, samples)
        metrics.add("time/generate", sampled - started)
        metrics.add("time/score", time.perf_counter() - sampled)
        return rollout, samples, outputs

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

    def _add_log_probs(self, rollout: Rollout, metrics: Metrics) -> Tensor | None:
        """Log-probabilities by the forward pass that training uses, not by the sampler's."""
        args, mask = self.args, rollout.completion_mask
        log_probs, entropy, outputs = self._policy_pass(rollout)
        rollout.tensors |= {"old_log_probs": log_probs, "kl": torch.zeros_like(log_probs)}
        metrics.add_tokens(mask, {"entropy": entropy})
        if self.reference is not None:
            ref_log_probs = self._reference_log_probs(rollout)
            if args.kl_placement == "loss":
                rollout.tensors["ref_log_probs"] = ref_log_probs
            else:
                rollout.tensors["kl"] = maths.KL_ESTIMATORS[args.kl_estimator](log_probs, ref_log_probs)
            kl = ((log_probs - ref_log_probs) * mask).sum(1)
            rollout.kl = maths.masked_mean(kl, torch.ones_like(kl), self._total).item()
            metrics.add_tokens(mask, {"kl": maths.kl_k3(log_probs, ref_log_probs)})
            metrics.add("kl/completion", rollout.kl * len(kl), len(kl))
        return outputs

    def _policy_pass(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities and entropy of the completion tokens, and the outputs of a head on the policy's trunk."""

        def run(batch):
            logits, states = completion_logits_and_states(self.model, batch, self.args.temperature)
            log_probs = maths.token_log_probs(logits, batch["completion_ids"])
            columns = [torch.nn.functional.pad(one, (0, 1)) for one in (log_probs, maths.entropy(logits))]
            if self.critic.shares_trunk:
                columns.append(self.critic.of_states(states))
            return torch.stack(columns, -1)

        log_probs, entropy, *outputs = self._forward(run, rollout, extra=1).unbind(-1)
        return log_probs[:, :-1], entropy[:, :-1], outputs[0] if outputs else None

    def _reference_log_probs(self, rollout: Rollout) -> Tensor:
        with self.reference.active() as model:

            def log_probs(batch):
                logits = completion_logits(model, batch, self.args.temperature)
                return maths.token_log_probs(logits, batch["completion_ids"])

            return self._forward(log_probs, rollout)

    def _forward(self, function, rollout: Rollout, extra: int = 0) -> Tensor:
        return chunked(function, rollout, self.args.per_device_eval_batch_size, extra)

    def _make_training_rollout(self, rows: list[dict]) -> Rollout:
        """A rollout with values, advantages and returns."""
        args, metrics = self.args, self._metrics
        key = ("rollout", args.seed, self.state.global_step, *self._process)
        rollout, samples, outputs = self._make_rollout(rows, key, metrics)
        add_spread(metrics, samples.scores, rollout.completion_mask.sum(1), self._total)
        self.state.num_input_tokens_seen += int(self._total(rollout.lengths.sum()))
        if args.log_completions:
            write_completions(self._completions_path, samples, self.state.global_step)
            self._shown = completions_table(samples, args.num_completions_to_print)
        if samples.scores.isnan().all():
            logger.warning("step %d: no reward judged any completion, so that they teach nothing", key[2])
        started = time.perf_counter()
        if outputs is None:
            self.value_model.eval()
            with self.accelerator.autocast():
                outputs = self._forward(self.critic.outputs, rollout, extra=1)
            self.value_model.train()
        if self.baseline is None:
            scorable = ~samples.scores.isnan()
            self.baseline = maths.masked_mean(samples.scores.nan_to_num(), scorable, self._total).item()
        beta, baseline = self.beta, self.baseline
        add_advantages(rollout, samples.scores, outputs, args, beta, baseline, metrics, self._total)
        metrics.add("kl_coef", self.beta)
        if args.kl_target is not None:
            count = args.rollout_size * args.world_size
            self.beta = maths.adapted_coefficient(beta, rollout.kl, args.kl_target, args.kl_horizon, count)
        metrics.add("time/score", time.perf_counter() - started, weight=0)
        return rollout

    # ---- Training on a rollout ----

    def _decide_what_learns(self) -> None:
        """Before each optimizer step: the critic alone in its warm-up, and after the policy has moved too far."""
        args = self.args
        if self.state.global_step % args.steps_per_rollout == 0:
            self._policy_stopped = False
        elif args.target_kl is not None:
            seen = self._total(torch.tensor([self._step_kl.total, self._step_kl.weight], device=args.device))
            self._policy_stopped |= bool(seen[0] > args.target_kl * seen[1])
        self._step_kl = WeightedMean()
        self._policy_learns = self.state.global_step >= args.critic_warmup_steps and not self._policy_stopped
        self._metrics.add("policy_learns", float(self._policy_learns))

    def _next_micro_batch(self) -> tuple[Tensor, Tensor]:
        """The rows of the next micro-batch, and the token count of the optimizer step that it belongs to."""
        args, loss_mask = self.args, self._rollout.tensors["loss_mask"]
        place = self._micro_step % args.steps_per_generation
        if place == 0:
            generator = keyed_generator("minibatches", args.seed, self.state.global_step)
            order = torch.randperm(args.rollout_size, generator=generator).to(loss_mask.device)
            self._order = self._rollout.micro_batches(
                order, args.per_device_train_batch_size, args.gradient_accumulation_steps
            )
        first = place - place % args.gradient_accumulation_steps
        if place == first:
            minibatch = torch.cat(self._order[first : first + args.gradient_accumulation_steps])
            self._num_tokens = self._total(loss_mask[minibatch].sum()).clamp(min=1)
        self._micro_step = (self._micro_step + 1) % args.micro_steps_per_rollout
        return self._order[place], self._num_tokens

    def _policy_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        args, mask = self.args, batch["loss_mask"]
        log_probs = maths.token_log_probs(logits, batch["completion_ids"])
        loss, ratio, is_clipped = maths.policy_loss(
            log_probs, batch["old_log_probs"], batch["advantages"], args.epsilon, args.delta
        )
        # k3 of KL(old || new): the tokens are the old policy's
        approx_kl = maths.kl_k3(batch["old_log_probs"], log_probs.detach())
        self._step_kl.add((approx_kl * mask).sum(), mask.sum())
        self._metrics.add_tokens(
            mask,
            {
                "loss/policy": loss,
                "ratio/mean": ratio,
                "clip_ratio/region_mean": is_clipped,
                "approx_kl": approx_kl,
            },
        )
        self._metrics.add_max("ratio/max", (ratio.detach() * mask).max())
        if args.importance_sampling_clip is not None:
            weights = (
                (batch["old_log_probs"] - batch["sampler_log_probs"]).exp().clamp(max=args.importance_sampling_clip)
            )
            self._metrics.add_tokens(mask, {"sampling/importance_ratio": weights})
            loss = loss * weights
        if "ref_log_probs" in batch:
            loss = loss + self.beta * maths.KL_ESTIMATORS[args.kl_estimator](log_probs, batch["ref_log_probs"])
        if args.entropy_coef:
            loss = loss - args.entropy_coef * maths.entropy(logits)
        return (loss * mask).sum()

    def _ptx_loss(self) -> Tensor | float:
        """Language-model loss on a micro-batch of texts, by its share of the targets of its optimizer step."""
        args, steps = self.args, self.args.gradient_accumulation_steps
        place = args.process_index * steps + (self._micro_step - 1) % steps
        key = ("ptx", args.seed, self.state.global_step)
        batch, share = self.texts.share(key, place, steps * args.world_size, args.device)
        if not share:  # texts of one token have no target
            return 0.0
        loss = mean_token_loss(self.model, batch)
        self._metrics.add("loss/ptx", loss.detach() * share, share)
        return loss * share

    def _value_loss(self, values: Tensor, batch: dict[str, Tensor]) -> Tensor:
        loss = maths.value_loss(values, batch["old_values"], batch["returns"], self.args.cliprange_value)
        self._metrics.add_tokens(batch["loss_mask"], {"loss/value": loss})
        return (loss * batch["loss_mask"]).sum()
