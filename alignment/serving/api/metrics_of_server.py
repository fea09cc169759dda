"""Metrics of a server in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from alignment.serving.batching.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class ServerMetrics:
    """Counts of a server, and the state of its engines when the metrics are read."""

    def __init__(self, engines: Sequence[Engine]):
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"align_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"align_{name}", text, ["model"], buckets=buckets, registry=registry)

        self.requests = counter("requests", "HTTP requests; status 499: the client left", "route", "status")
        self.replies = counter("replies", "Finished replies by finish_reason", "model", "reason")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of accepted prompts", "model")
        self.tokens = counter("generated_tokens", "Generated tokens", "model")
        self.first_token = histogram("time_to_first_token_seconds", "From a request to a reply's first token", SECONDS)
        self.rate = histogram("reply_tokens_per_second", "Tokens per second of a reply after its first", RATES)
        self.registry.register(EngineState(engines))

    def text(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self.registry)


class EngineState(Collector):
    """Reads the state of engines."""

    def __init__(self, engines: Sequence[Engine]):
        self.engines = engines

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the state of all engines."""
        replies = GaugeMetricFamily("align_replies_in_progress", "Replies by state", labels=["model", "state"])
        cache = GaugeMetricFamily(
            "align_cache_bytes", "Cache held by replies, kept from earlier prompts, or free", labels=["model", "state"]
        )
        shared = CounterMetricFamily("align_cached_prompt_tokens", "Prompt tokens found in the cache", labels=["model"])
        alive = GaugeMetricFamily("align_engine_up", "Whether the engine generates", labels=["model"])
        for engine in self.engines:
            now = engine.figures()
            for state, value in (("running", now.running), ("waiting", now.waiting)):
                replies.add_metric([engine.name, state], value)
            for state, value in (("held", now.held), ("kept", now.kept), ("free", now.free)):
                cache.add_metric([engine.name, state], value)
            shared.add_metric([engine.name], now.shared)
            alive.add_metric([engine.name], engine.is_alive())
        yield from (replies, cache, shared, alive)
