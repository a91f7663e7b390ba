"""The metrics of a server, for Prometheus."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from prompts.tasks import TASKS
from server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from server.engine.request import Result

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ANSWER_TOKENS = (2, 5, 10, 20, 50, 100, 200, 500, 1000, 4000)
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


class Metrics:
    """The metrics of one app, in their own registry. Includes the counters of the engine once it is loaded."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(lifecycle))
        self._requests = Histogram(
            "florist_http_request_seconds",
            "Seconds from the head of a request to the end of its response.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._prompts = Counter(
            "florist_prompts", "Prompts by task and outcome.", ("task", "outcome"), registry=self.registry
        )
        self._phases = Histogram(
            "florist_phase_seconds",
            "Seconds that an answered prompt spent in each phase.",
            ("phase",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._answer_tokens = Histogram(
            "florist_answer_tokens", "Tokens per answer.", buckets=_ANSWER_TOKENS, registry=self.registry
        )

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Records an HTTP request."""
        # Unknown methods share one label value: clients could create any number of time series.
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).observe(seconds)

    def observe_prompt(self, task: str, outcome: str, result: "Result | None" = None) -> None:
        """Records a prompt. `outcome`: answered, invalid, overloaded, timed_out, cancelled or failed."""
        self._prompts.labels(task if task in TASKS else "other", outcome).inc()
        if result is not None:
            timing = result.timing
            self._phases.labels("queue").observe(timing.queue_ms / 1e3)
            self._phases.labels("encode").observe(timing.encode_ms / 1e3)
            self._phases.labels("decode").observe(timing.decode_ms / 1e3)
            self._phases.labels("total").observe(timing.total_ms / 1e3)
            self._answer_tokens.observe(len(result.tokens))


class _EngineCollector(Collector):
    """Reads the counters of the engine when Prometheus scrapes."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def collect(self) -> Iterator[Metric]:
        engine = self._lifecycle.engine
        stats = engine.get_stats() if engine else None
        yield GaugeMetricFamily("florist_model_loaded", "Whether the model is loaded.", float(stats is not None))
        if engine is None or stats is None:
            return
        values = asdict(stats)
        yield GaugeMetricFamily("florist_queue_depth", "Prompts that wait in the queue.", values["waiting"])
        yield GaugeMetricFamily("florist_running", "Prompts that are being decoded.", values["running"])
        yield SummaryMetricFamily(
            "florist_batch_size", "Prompts per decoder step.", count_value=values["steps"], sum_value=values["rows"]
        )
        yield CounterMetricFamily(
            "florist_out_of_memory", "Batches that ran out of memory and were retried smaller.", values["out_of_memory"]
        )
        cache = values["cache"]
        lookups = CounterMetricFamily("florist_feature_cache", "Lookups of image features.", labels=["outcome"])
        for outcome, count in (("hit", cache["hits"]), ("miss", cache["misses"])):
            lookups.add_metric([outcome], count)
        yield lookups
        yield GaugeMetricFamily("florist_feature_cache_bytes", "Bytes of cached image features.", cache["bytes"])
        yield GaugeMetricFamily("florist_feature_cache_images", "Images with cached features.", cache["images"])
        # Without prompts by adapter: adapters come and go, and each name would stay a time series.
        adapters = engine.list_adapters()
        yield GaugeMetricFamily("florist_adapters", "Loaded adapters.", len(adapters))
        size = sum(adapter.bytes for adapter in adapters)
        yield GaugeMetricFamily("florist_adapter_bytes", "Bytes of the loaded adapters.", size)
        yield CounterMetricFamily("florist_generated_tokens", "Generated tokens.", values["tokens"])
        yield CounterMetricFamily("florist_images", "Images that the vision encoder processed.", values["images"])
        busy = CounterMetricFamily("florist_engine_seconds", "Seconds of the engine by phase.", labels=["phase"])
        for phase in ("vision", "encode", "decode"):
            busy.add_metric([phase], values[f"{phase}_seconds"])
        yield busy
