"""What can be set. Each field is an option of `florist serve` and an environment variable, FLORIST_ and its name."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.engine.config import EngineConfig

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENGINE = EngineConfig()  # the defaults of its options

MAX_PROMPTS = 4096  # whatever the setting: so many are looked at before a request is refused

# A list is written with commas, in the environment and on the command line alike.
Commas = Annotated[tuple[str, ...], NoDecode]


class SettingsError(ValueError):
    """Settings that cannot be used; the message names each one at fault, a line each, and never quotes a secret."""


class Settings(BaseSettings):
    """The server's settings. Sizes are in bytes and pixels, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="FLORIST_", extra="ignore", frozen=True)

    model: str = Field(_ENGINE.model, min_length=1, description="Checkpoint: seedling, a folder, or a hub id.")
    device: str = Field(
        "auto",
        min_length=1,
        description="auto, cpu, cuda:1 …; several, commas between, share the queue: cuda:0,cuda:1.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the weights.")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for every network.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    max_batch: int = Field(_ENGINE.max_batch, ge=1, le=1024, description="Most prompts decoded together.")
    max_waiting: int = Field(
        _ENGINE.max_waiting, ge=1, description="Most prompts that may wait; beyond them the answer is 503."
    )
    max_prompts: int = Field(32, ge=1, le=MAX_PROMPTS, description="Most prompts in one request.")
    max_text_length: int = Field(8192, ge=1, description="Longest text of a prompt, in characters.")
    max_body_bytes: int = Field(32 * 1024**2, ge=1024, description="Largest request body, and largest fetched picture.")
    max_pixels: int = Field(64_000_000, ge=1, le=170_000_000, description="Most pixels of a picture (width × height).")
    adapters_folder: Path | None = Field(
        None,
        description="Folder of adapters: each subfolder, one of PEFT's, is served under its name. None: in memory.",
    )
    max_adapter_bytes: int = Field(
        _ENGINE.max_adapter_bytes, ge=1024, description="Most bytes of adapters: all that are loaded, or one."
    )
    timeout: float = Field(120.0, gt=0, allow_inf_nan=False, description="Longest a request may take.")
    shutdown_timeout: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="How long a stopping server lets running requests finish."
    )
    api_keys: Commas = Field(
        (), description="SHA-256 hashes of the API keys, commas between; `florist key` makes one. None: open to all."
    )
    cors_origins: Commas = Field(
        (), description="Origins whose pages may call the server, commas between; * for any. None: no other pages."
    )
    allow_image_urls: bool = Field(False, description="Fetch pictures named by image_url, from public addresses only.")
    image_url_timeout: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="Longest that fetching a picture may take."
    )
    jobs_folder: Path | None = Field(
        None, description="Folder of this server's jobs: their database and exports under way. None: it runs no jobs."
    )
    jobs_sources: Commas = Field(
        (), description="Folders and URLs that jobs' pictures may be in, commas between: /data,s3://bucket/pictures."
    )
    projects_folder: Path | None = Field(
        None,
        description="Folder of this server's projects: corrected pictures, fine-tunes and their adapters; the rest is "
        "in the database of jobs. None: it has no projects.",
    )
    database_url: str | None = Field(
        None, description="Where jobs are kept: postgresql://user:password@host/name. None: SQLite in jobs_folder."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="How logs are written; auto: console on a terminal, json elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("api_keys", "cors_origins", "jobs_sources", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("adapters_folder", "jobs_folder", "projects_folder", "database_url", mode="before")
    @classmethod
    def _unset(cls, value: Any) -> Any:
        return None if value == "" else value  # not the folder where the server was started

    @field_validator("api_keys")
    @classmethod
    def _hashes(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_SHA256.fullmatch(key) for key in map(str.lower, keys)):
            raise ValueError("not every entry is a SHA-256 hash of 64 hex digits; keys are kept hashed: `florist key`")
        return tuple(key.lower() for key in keys)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"{origin} is no origin; write it like https://labels.example.org, without a path")
        return origins

    @field_validator("jobs_sources")
    @classmethod
    def _places(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        if places:
            from server.jobs.sources.permissions import (
                validate_location,  # it brings what reads buckets: not for every command
            )

            for place in places:
                validate_location(place)
        return places

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.max_prompts > self.max_waiting:
            raise ValueError(
                f"max_prompts ({self.max_prompts}) is more than max_waiting ({self.max_waiting}): "
                "such a request could never be taken; lower the one or raise the other"
            )
        if self.projects_folder is not None and self.jobs_folder is None:
            raise ValueError(
                f"projects are kept in the database of jobs: beside {variable('projects_folder')} "
                f"({option('projects_folder')}) set {variable('jobs_folder')} ({option('jobs_folder')})"
            )
        return self

    @property
    def engine_config(self) -> EngineConfig:
        """The options of the engine."""
        return EngineConfig(
            model=self.model,
            device=self.device,
            dtype=self.dtype,
            max_batch=self.max_batch,
            max_waiting=self.max_waiting,
            max_adapter_bytes=self.max_adapter_bytes,
        )


def load(**given: Any) -> Settings:
    """Settings from `given` values (None: not given), then the environment, then the defaults. Raises SettingsError."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(map(_line, error.errors(include_url=False)))) from None


def option(name: str) -> str:
    """The command line's option of a field."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a field."""
    return f"FLORIST_{name.upper()}"


def _line(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    # Someone may have written a key where its hash belongs: nothing that was given for keys is repeated.
    got = "" if name == "api_keys" else f" (got {str(error['input'])[:60]!r})"
    return f"{variable(name)} ({option(name)}): {message}{got}"
