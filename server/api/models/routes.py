"""Routes of the model that the server runs."""

from fastapi import APIRouter

from server.api.auth import KeyRequired
from server.api.deps import LifecycleDep
from server.api.model_names import get_public_name
from server.api.models.schemas import ModelListResponse, ModelResponse
from server.api.problems import UNAUTHORIZED, document_problems

router = APIRouter(tags=["models"], dependencies=[KeyRequired], responses=document_problems(UNAUTHORIZED))


@router.get("/v1/models", summary="List the models")
async def list_models(lifecycle: LifecycleDep) -> ModelListResponse:
    """Returns the model that this server runs, as a list of one."""
    engine = lifecycle.engine
    if engine is None:
        return ModelListResponse(models=[ModelResponse(name=get_public_name(lifecycle.settings.model), ready=False)])
    checkpoint = engine.checkpoint
    return ModelListResponse(
        models=[
            ModelResponse(
                name=get_public_name(checkpoint.name),
                ready=not lifecycle.draining,
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
