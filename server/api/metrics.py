"""What Prometheus reads. Behind an API key where there are any, as how much a server is used is its owner's affair."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from prompts.tasks import TASKS
from server.api.auth import Authorised
from server.api.problems import UNAUTHORIZED, documented
from server.engine.adapters import Adapter
from server.engine.request import Result

router = APIRouter(tags=["health"], dependencies=[Authorised], responses=documented(UNAUTHORIZED))

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ANSWER_TOKENS = (2, 5, 10, 20, 50, 100, 200, 500, 1000, 4000)


class Metrics:
    """The counters of one app, in a registry of its own. `stats` gives the engine's, None before it is loaded;
    `adapters` those that are loaded."""

    def __init__(self, stats: Callable[[], object | None], adapters: Callable[[], Sequence[Adapter]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineStats(stats, adapters))
        self.http = Histogram(
            "florist_http_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.prompts = Counter(
            "florist_prompts", "Prompts by task and how they ended.", ("task", "outcome"), registry=self.registry
        )
        self.phases = Histogram(
            "florist_phase_seconds",
            "Seconds that an answered prompt spent in each phase.",
            ("phase",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.answer_tokens = Histogram(
            "florist_answer_tokens", "Tokens of an answer.", buckets=_ANSWER_TOKENS, registry=self.registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        # A stranger's method and path would make as many series as they like.
        known = method if method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS") else "other"
        self.http.labels(known, route, str(status)).observe(seconds)

    def prompt(self, task: str, outcome: str, result: Result | None = None) -> None:
        """`outcome`: answered, invalid, overloaded, timed_out, cancelled or failed."""
        self.prompts.labels(task if task in TASKS else "other", outcome).inc()
        if result is not None:
            timing = result.timing
            self.phases.labels("queue").observe(timing.queue_ms / 1e3)
            self.phases.labels("encode").observe(timing.encode_ms / 1e3)
            self.phases.labels("decode").observe(timing.decode_ms / 1e3)
            self.phases.labels("total").observe(timing.total_ms / 1e3)
            self.answer_tokens.observe(len(result.tokens))


class _EngineStats(Collector):
    """The engine's own counters, read when Prometheus asks."""

    def __init__(self, stats: Callable[[], object | None], adapters: Callable[[], Sequence[Adapter]]) -> None:
        self.stats, self.adapters = stats, adapters

    def collect(self) -> Iterator[Metric]:
        now = self.stats()
        yield GaugeMetricFamily("florist_model_loaded", "Whether the model is loaded.", float(now is not None))
        if now is None:
            return
        stats = asdict(now)  # type: ignore[call-overload]
        yield GaugeMetricFamily("florist_queue_depth", "Prompts that wait for a place.", stats["waiting"])
        yield GaugeMetricFamily("florist_running", "Prompts that are decoded now.", stats["running"])
        yield SummaryMetricFamily(
            "florist_batch_size", "Prompts a decoder step.", count_value=stats["steps"], sum_value=stats["rows"]
        )
        yield CounterMetricFamily(
            "florist_out_of_memory", "Batches that were too much for the memory, and tried again smaller.",
            stats["out_of_memory"],
        )  # fmt: skip
        cache = stats["cache"]
        asked = CounterMetricFamily("florist_feature_cache", "Pictures looked up among those seen.", labels=["outcome"])
        for outcome, count in (("hit", cache["hits"]), ("miss", cache["misses"])):
            asked.add_metric([outcome], count)
        yield asked
        yield GaugeMetricFamily("florist_feature_cache_bytes", "Bytes of image features kept.", cache["bytes"])
        yield GaugeMetricFamily(
            "florist_feature_cache_pictures", "Pictures whose features are kept.", cache["pictures"]
        )
        # Not prompts by adapter: names come and go for ever, and each would stay a series.
        adapters = self.adapters()
        yield GaugeMetricFamily("florist_adapters", "Adapters that prompts can name.", len(adapters))
        yield GaugeMetricFamily("florist_adapter_bytes", "Bytes of them in memory.", sum(a.bytes for a in adapters))
        yield CounterMetricFamily("florist_generated_tokens", "Tokens generated.", stats["tokens"])
        yield CounterMetricFamily("florist_pictures", "Pictures that the vision tower saw.", stats["pictures"])
        busy = CounterMetricFamily("florist_engine_seconds", "Seconds of the engine by phase.", labels=["phase"])
        for phase in ("vision", "encode", "decode"):
            busy.add_metric([phase], stats[f"{phase}_seconds"])
        yield busy


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Prometheus' text format: prompts by task and outcome, queue, batches, seconds by phase, tokens."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.metrics.registry), media_type=content_type)
