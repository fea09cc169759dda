"""The engine of a served model: continuous batching with paged attention, kept alive between requests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from alignment.errors import UserError
from alignment.models.checkpoints import REFUSALS, summary
from alignment.models.context_length import context_length
from alignment.serving.batching.cache_budget import RESERVED, blocks_within, in_units, shape_of
from alignment.serving.batching.convolution_states import ConvolutionStates, as_full_attention, has_convolutions
from alignment.serving.batching.deliveries import Deliveries
from alignment.serving.batching.engine_settings import EngineSettings
from alignment.serving.batching.keyed_sampling import KeyedSampling
from alignment.serving.batching.pending_replies import EngineDown, QueueFull, Replies, Request
from alignment.serving.batching.served_models import Served
from alignment.serving.batching.short_prompts_first import registered

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.cache import PagedAttentionCache
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
    from transformers.generation.continuous_batching.requests import FutureRequestState

LONGEST_WITHOUT_CONTEXT = 4096  # tokens of a sequence, for a model whose config names no context


@dataclass(frozen=True)
class Figures:
    """The state of an engine at a moment.

    Attributes:
        running, waiting: replies.
        held, kept, free: bytes of the cache that running replies hold, that finished prompts left for later ones, and
            that hold nothing.
        shared: prompt tokens that were found in the cache since the start.
    """

    running: int
    waiting: int
    held: int
    kept: int
    free: int
    shared: int


class Engine:
    """Generates replies of one model, many at once.

    Args:
        served: the model with its tokenizer.
        settings: limits.

    Raises:
        UserError: transformers has no paged attention for the model, or the cache does not fit into memory.
    """

    def __init__(self, served: Served, settings: EngineSettings | None = None):
        self.served, self.settings = served, settings or EngineSettings()
        self.name, self.model, self.tokenizer = served.name, served.model, served.tokenizer
        self.device: torch.device = served.model.device
        self.own_attention: str = served.model.config._attn_implementation
        self.sampling, self.deliveries = KeyedSampling(), Deliveries()
        self.convolutions = ConvolutionStates() if has_convolutions(self.model) else None
        self.outstanding: set[str] = set()
        self.shared = 0
        self.numbers, self.stopping = itertools.count(), threading.Lock()
        self.manager, self.blocks = self._manager()
        self.processor = self.manager.batch_processor
        self.cache: PagedAttentionCache = self.processor.cache
        self.cache.search_prefix_match = self._counted(self.cache.search_prefix_match)
        self.cache.convolution_states = self.convolutions  # where the GPT looks for them
        room, context = self.blocks * self.settings.block, context_length(self.model.config)
        self.context = min(context or LONGEST_WITHOUT_CONTEXT, room)
        self.vocabulary: int = self.model.config.get_text_config().vocab_size
        self.limited_by_memory = context is not None and self.context < context

    def _manager(self) -> tuple[ContinuousBatchingManager, int]:
        """Return the library's manager with our sampling, its cache allocated, and the number of its blocks."""
        settings = self.settings
        try:
            with as_full_attention(self.model):
                blocks = self._blocks()
                manager = self.model.init_continuous_batching(
                    GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=self.tokenizer.pad_token_id),
                    self._library_settings(blocks),
                )
                manager.output_router = self.deliveries
                manager.logit_processor = self.sampling.as_list(self._before_pass if self.convolutions else None)
                manager.warmup()  # allocates the cache
        except MemoryError as error:
            raise UserError(
                f"the cache of {self.name} does not fit into memory",
                got=summary(error),
                expected=f"room for {in_units(settings.memory)}",
                fix="a smaller --memory, or a machine with more memory",
            ) from error
        except REFUSALS as error:
            raise not_paged(self.name, summary(error)) from error
        return manager, blocks

    def _blocks(self) -> int:
        """Return the number of blocks: those that all places can use, as far as memory allows."""
        settings, chunk = self.settings, self.settings.chunk_on(self.device.type)
        context = context_length(self.model.config) or LONGEST_WITHOUT_CONTEXT
        wanted = min(settings.streams, chunk) * (context + settings.block)
        self.shape = shape_of(self.model)
        return blocks_within(self.shape, settings.memory, block=settings.block, batch_tokens=chunk, wanted=wanted)

    def _library_settings(self, blocks: int) -> ContinuousBatchingConfig:
        """Return the settings of transformers' engine."""
        settings, chunk = self.settings, self.settings.chunk_on(self.device.type)
        return ContinuousBatchingConfig(
            page_size=settings.block,
            num_blocks=blocks,
            max_batch_tokens=chunk,
            max_requests_per_batch=min(settings.streams, chunk),
            scheduler_type=registered(),
            # A prompt that begins within shared blocks would need the convolutions' state there.
            allow_block_sharing=settings.share_prefixes and self.convolutions is None,
            # Sampling reads each request's options in Python, which a CUDA graph would not repeat.
            use_async_batching=False,
            use_cuda_graph=False,
            # Otherwise transformers may fetch a kernel from the hub.
            auto_switch_to_flash=find_spec("flash_attn") is not None,
        )

    def _before_pass(self, requests: list[FutureRequestState]) -> None:
        """Prepare the convolutions for the requests of a forward pass."""
        if self.convolutions is not None:
            batch = [
                (one.state.request_id, one.state.position_offset == one.query_length, one.query_length)
                for one in requests
            ]
            self.convolutions.begin(batch, self.processor.scheduler.active_requests)

    def _counted(self, search: Callable[[str, list[int]], int]) -> Callable[[str, list[int]], int]:
        """Return the cache's search for an earlier prompt with the same beginning, its findings counted."""

        def counted(request_id: str, prompt_ids: list[int]) -> int:
            found = search(request_id, prompt_ids)
            self.shared += found
            return found

        return counted

    def start(self) -> None:
        """Start the thread that generates."""
        self.manager.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Fail what still runs, and end the thread; safe to repeat, from any thread."""
        with self.stopping:
            if self.manager.is_running():
                self.manager.stop(block=True, timeout=seconds, hard_stop=True)
            self.deliveries.fail_rest("the engine was stopped")

    def is_alive(self) -> bool:
        return self.manager.is_running() and self.manager.background_thread_status.can_accept_new_requests() is None

    def submit(self, request: Request) -> Replies:
        """Have the replies of a request generated: all of them, or none if the queue has no room.

        Called on the event loop that reads the replies.

        Raises:
            QueueFull: more replies would wait than the settings allow.
            EngineDown: the engine has stopped.
        """
        if not self.is_alive():
            raise EngineDown(f"the engine of {self.name} is not running")
        room = self.settings.streams + self.settings.queue - len(self.outstanding)
        if len(request.prompts) > room:
            raise QueueFull(
                f"{self.name} has room for {max(0, room)} more replies, the request asks for {len(request.prompts)}"
            )
        return Replies(self, request)

    def figures(self) -> Figures:
        """Return the state of the engine, read while it runs: figures of the same moment within a step."""
        scheduler = self.processor.scheduler
        allocators = list(self.cache.cache_allocators.values())
        held = kept = 0
        for one in allocators:
            tables = list(one.block_table.values())
            held += len({block for table in tables for block in list(table)}) * one.bytes_per_block
            kept += len(one.ledger.cached_blocks) * one.bytes_per_block
        total = self.cache.num_sectors * self.cache.bytes_per_sector
        running = len(scheduler.active_requests)
        return Figures(running, max(0, len(self.outstanding) - running), held, kept, total - held - kept, self.shared)

    def cache_bytes(self) -> int:
        """Return the bytes of the cache and the tensors that grow with it."""
        own = self.cache.num_sectors + RESERVED
        inputs = self.processor.inputs_and_outputs
        masks = (inputs.attention_mask or {}).values()
        others = [*masks, inputs.read_index_storage, inputs.write_index_storage]
        return own * self.cache.bytes_per_sector + sum(one.numel() * one.itemsize for one in others)

    def log_probs(self, prompt: Sequence[int], reply: Sequence[int]) -> list[float]:
        """Return the log-probability of each token of a given reply, in a plain forward pass.

        Streams continue meanwhile, unless the model's own attention differs from the engine's: then they pause.
        """
        ids = torch.tensor([[*prompt, *reply]], device=self.device)
        with torch.no_grad():
            if self.model.config._attn_implementation == self.own_attention:
                logits = self.model(input_ids=ids, use_cache=False).logits
            else:
                logits = self._in_a_pause(ids)
        rows = torch.log_softmax(logits[0, len(prompt) - 1 : -1].float(), dim=-1)
        return rows.gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()

    def _in_a_pause(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of the model with its own attention, while the engine pauses."""
        paged = self.model.config._attn_implementation
        with self.manager.pause():
            self.model.set_attn_implementation(self.own_attention)
            try:
                return self.model(input_ids=ids, use_cache=False).logits
            finally:
                self.model.set_attn_implementation(paged)


def not_paged(name: str, reason: str) -> UserError:
    """Return the refusal of a model that continuous batching cannot run."""
    return UserError(
        f"{name} cannot be served: transformers' continuous batching does not run this model",
        got=reason,
        expected="attention over all tokens or a sliding window, without further state from token to token",
        fix="use `align chat` and `align sample`, which run every model",
    )
