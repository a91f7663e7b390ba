"""Schemas and parameters of the adapters resource."""

from typing import TYPE_CHECKING, Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, Field

from server.engine.adapters.names import NAME_PATTERN, NAME_RULE

if TYPE_CHECKING:
    from server.engine.adapters.registry import Adapter


def _check_name(name: str) -> str:
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(NAME_RULE)
    return name


AdapterName = Annotated[
    str,
    AfterValidator(_check_name),
    Path(
        description="The name of the adapter.",
        json_schema_extra={"pattern": f"^{NAME_PATTERN.pattern}$", "example": "project-7"},
    ),
]


class AdapterResponse(BaseModel):
    """A LoRA adapter on the weights of the model."""

    name: str = Field(description="What prompts send as `adapter`.")
    sha256: str = Field(description="Of its weights file.")
    bytes: int = Field(description="Its size in memory.")
    rank: int = Field(description="The largest rank of its modules.")
    modules: int = Field(description="The number of modules that it adapts.")
    adapts_vision: bool = Field(
        description="Whether it adapts the vision encoder. If not, it shares the image features of the model."
    )
    base: str = Field(description="SHA-256 of the weights of the model.")
    calibrated: list[str] = Field(description="The tasks with calibrated scores.")
    classes: list[str] = Field(
        description="The classes of its training data: its answers are held to them. Empty: they are free."
    )
    ready: bool = Field(description="Whether prompts can name it now.")


class AdapterListResponse(BaseModel):
    """The loaded adapters."""

    adapters: list[AdapterResponse]
    bytes: int = Field(description="The size of all of them in memory.")
    max_bytes: int = Field(description="The limit for all of them together, and for one weights file.")


def create_adapter_response(adapter: "Adapter", base_sha256: str, *, ready: bool) -> AdapterResponse:
    """Returns the response for a loaded adapter."""
    return AdapterResponse(
        name=adapter.name,
        sha256=adapter.sha256,
        bytes=adapter.bytes,
        rank=adapter.rank,
        modules=adapter.modules,
        adapts_vision=adapter.adapts_vision,
        base=base_sha256,
        calibrated=sorted(adapter.calibration.tasks) if adapter.calibration else [],
        classes=list(adapter.class_list),
        ready=ready,
    )
