"""The route that Prometheus scrapes. It needs an API key if the server has keys."""

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from server.api.auth import KeyRequired
from server.api.deps import MetricsDep
from server.api.problems import UNAUTHORIZED, document_problems

router = APIRouter(tags=["health"], dependencies=[KeyRequired], responses=document_problems(UNAUTHORIZED))


@router.get(
    "/metrics",
    summary="Read the metrics",
    response_class=Response,
    responses={200: {"description": "The text format of Prometheus.", "content": {"text/plain": {}}}},
)
async def read_metrics(request: Request, metrics: MetricsDep) -> Response:
    """Returns the metrics for Prometheus: prompts by task and outcome, the queue, batches, seconds by phase, tokens."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), media_type=content_type)
