"""Schemas of the models resource."""

from pydantic import BaseModel, Field


class ModelResponse(BaseModel):
    """The model and its limits. All fields but `name` and `ready` are null until it is loaded."""

    name: str
    ready: bool = Field(description="Whether it accepts prompts now.")
    device: str | None = None
    dtype: str | None = None
    sha256: str | None = Field(None, description="Of its weights. Servers with the same value give the same answers.")
    num_beams: int | None = Field(None, description="The number of beams of a prompt that does not set it.")
    max_new_tokens: int | None = Field(None, description="The longest answer, in tokens.")
    max_prompt_tokens: int | None = Field(None, description="The longest prompt, in tokens.")
    calibrated: list[str] | None = Field(
        None, description="The tasks with calibrated scores. An adapter has its own calibration."
    )


class ModelListResponse(BaseModel):
    """The models of the server."""

    models: list[ModelResponse]
