"""Which model answers."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from server.api.auth import Authorised
from server.api.problems import UNAUTHORIZED, documented

router = APIRouter(tags=["models"], dependencies=[Authorised], responses=documented(UNAUTHORIZED))


class Model(BaseModel):
    """A checkpoint and the limits it sets. All but its name are there once it is loaded."""

    name: str
    ready: bool
    device: str | None = None
    dtype: str | None = None
    sha256: str | None = Field(None, description="Of its weights: two servers with the same answer alike.")
    num_beams: int | None = Field(None, description="Beams, where a prompt does not say.")
    max_new_tokens: int | None = Field(None, description="The longest answer, in tokens.")
    max_prompt_tokens: int | None = Field(None, description="The longest prompt, in tokens.")
    calibrated: list[str] | None = Field(
        None, description="The tasks whose scores are put on the scale of its calibration; an adapter has its own."
    )


class ModelList(BaseModel):
    models: list[Model]


@router.get("/v1/models")
async def models(request: Request) -> ModelList:
    """The model that this server runs."""
    serving = request.app.state.serving
    engine = serving.loaded
    if engine is None:
        return ModelList(models=[Model(name=serving.settings.model, ready=False)])
    checkpoint = engine.checkpoint
    return ModelList(
        models=[
            Model(
                name=checkpoint.name,
                ready=not serving.draining,
                device=str(engine.device),
                dtype=str(checkpoint.model.dtype).removeprefix("torch."),
                sha256=checkpoint.sha256,
                num_beams=checkpoint.generation.num_beams,
                max_new_tokens=checkpoint.max_new_tokens,
                max_prompt_tokens=checkpoint.max_prompt_tokens,
                calibrated=sorted(checkpoint.calibration.tasks) if checkpoint.calibration else [],
            )
        ]
    )
