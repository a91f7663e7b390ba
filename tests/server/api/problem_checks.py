"""Checks of problem details."""

import httpx

from server.api.problems import ProblemDetails


def check_problem(response: httpx.Response, status: int, kind: str) -> ProblemDetails:
    """Checks that a response has problem details of this kind, and returns them."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    details = ProblemDetails.model_validate(response.json())
    assert details.type == f"urn:florist:problem:{kind}"
    assert details.status == status
    assert details.request_id == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return details


def check_field(response: httpx.Response, status: int, kind: str, field: str | None = None) -> ProblemDetails:
    """Checks that a response has problem details of this kind and field, and returns them."""
    details = check_problem(response, status, kind)
    assert details.field == field
    assert len(details.detail) > 10
    return details
