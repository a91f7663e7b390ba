"""The settings of the server. Each field is an option of `florist serve` and an environment variable FLORIST_<NAME>."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from labels.decoder_options import DECODE_SECONDS
from server.engine.config import EngineConfig

MAX_PROMPTS = 4096  # the upper limit of the setting max_prompts
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENGINE = EngineConfig()

# A list in the environment and on the command line is separated by commas.
CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class SettingsError(ValueError):
    """Invalid settings. The message names each invalid setting, one per line, and never contains a secret."""


class Settings(BaseSettings):
    """The settings of the server. Sizes are in bytes and pixels, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="FLORIST_", extra="ignore", frozen=True)

    model: str = Field(_ENGINE.model, min_length=1, description="The checkpoint: seedling, a folder, or a hub ID.")
    device: str = Field(
        _ENGINE.device,
        min_length=1,
        description="auto, cpu, cuda:1, … Several devices, separated by commas, share the queue: cuda:0,cuda:1.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="The precision of the weights."
    )
    host: str = Field("127.0.0.1", min_length=1, description="The address to listen on; 0.0.0.0 for all networks.")
    port: int = Field(8000, ge=0, le=65535, description="The port to listen on; 0 chooses a free one.")
    max_connections: int = Field(
        1000,
        ge=1,
        description="The maximum number of open connections. Clients beyond it are answered with 503; idle connections "
        "are closed first.",
    )
    max_batch: int = Field(
        _ENGINE.max_batch, ge=1, le=1024, description="The maximum number of prompts decoded together."
    )
    max_waiting: int = Field(
        _ENGINE.max_waiting,
        ge=1,
        description="The maximum number of prompts in the queue; more are answered with 503.",
    )
    max_prompts: int = Field(
        32,
        ge=1,
        le=MAX_PROMPTS,
        description="The maximum number of prompts in one request; each class of a text is one.",
    )
    max_text_length: int = Field(8192, ge=1, description="The maximum length of a prompt's text, in characters.")
    max_body_bytes: int = Field(
        32 * 1024**2, ge=1024, description="The maximum size of a request body, and of an image fetched from a URL."
    )
    max_pixels: int = Field(
        64_000_000, ge=1, le=170_000_000, description="The maximum number of pixels of an image (width × height)."
    )
    decode_timeout: float = Field(
        DECODE_SECONDS,
        gt=0,
        le=600,
        allow_inf_nan=False,
        description="The maximum computing time to decode an image, in a process of its own. An image that takes "
        "longer is refused.",
    )
    allow_netpbm: bool = Field(
        False, description="Whether PPM, PGM and PBM images are decoded. As text, they take very long."
    )
    adapters_folder: Path | None = Field(
        None,
        description="The folder of adapters. Each subfolder, as PEFT saves it, is loaded under its name. None: "
        "adapters are only in memory.",
    )
    max_adapter_bytes: int = Field(
        _ENGINE.max_adapter_bytes, ge=1024, description="The maximum size of all loaded adapters, and of a single one."
    )
    request_timeout: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="The maximum time to receive and to answer a request."
    )
    shutdown_timeout: float = Field(
        30.0,
        ge=0,
        allow_inf_nan=False,
        description="How long a server that shuts down waits for running requests. It ends 5 s later at the latest.",
    )
    api_keys: CommaSeparated = Field(
        (), description="SHA-256 hashes of the API keys; `florist key` creates a key. None: the server is open to all."
    )
    cors_origins: CommaSeparated = Field(
        (), description="Origins of web pages that may call the server; * for any. None: no other pages."
    )
    allow_image_urls: bool = Field(
        False, description="Whether prompts may name an image by image_url. Only public addresses are fetched."
    )
    image_url_timeout: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="The maximum time to fetch an image from a URL."
    )
    jobs_folder: Path | None = Field(
        None,
        description="The folder for jobs: their SQLite database and temporary exports. None: the server runs no jobs.",
    )
    jobs_sources: CommaSeparated = Field(
        (),
        description="Folders and URLs that jobs may read images from: /data,s3://bucket/images. Links and redirects "
        "must stay within them. A web server whose name has a private address is read only if the URL with this "
        "address is listed too, or the name is local (without a dot, or .local, .lan, .internal).",
    )
    max_upload_bytes: int = Field(
        16 * 1024**3, ge=1024, description="The maximum size of all uploads of images together, and of a single one."
    )
    max_upload_images: int = Field(100_000, ge=1, description="The maximum number of files and images in one upload.")
    upload_days: float = Field(
        7.0, gt=0, allow_inf_nan=False, description="The days after which an upload is deleted that no job uses."
    )
    projects_folder: Path | None = Field(
        None,
        description="The folder for projects: corrected images, fine-tune runs and their adapters. Other data is in "
        "the database of jobs. None: the server has no projects.",
    )
    database_url: str | None = Field(
        None,
        description="The database of jobs and projects: postgresql://user:password@host/name. None: SQLite in "
        "jobs_folder.",
    )
    database_timeout: float = Field(
        10.0,
        gt=0,
        le=600,
        allow_inf_nan=False,
        description="How long a request waits for the database, and then for a lock of another process; it is then "
        "answered with 503.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="The format of the log; auto: console on a terminal, otherwise json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged."
    )

    @field_validator("api_keys", "cors_origins", "jobs_sources", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("adapters_folder", "jobs_folder", "projects_folder", "database_url", mode="before")
    @classmethod
    def _replace_empty(cls, value: Any) -> Any:
        return None if value == "" else value  # Path("") would be the working directory

    @field_validator("api_keys")
    @classmethod
    def _check_hashes(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_SHA256.fullmatch(key) for key in map(str.lower, keys)):
            raise ValueError(
                "not every entry is a SHA-256 hash with 64 hex digits; `florist key` prints the hash of a key"
            )
        return tuple(key.lower() for key in keys)

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"{origin} is not an origin; write it like https://labels.example.org, without a path")
        return origins

    @field_validator("jobs_sources")
    @classmethod
    def _check_sources(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        if sources:
            # Not at the top: it imports the clients of cloud storage, which most commands do not need.
            from server.jobs.sources.permissions import validate_location

            for source in sources:
                validate_location(source)
        return sources

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        if self.max_prompts > self.max_waiting:
            raise ValueError(
                f"max_prompts ({self.max_prompts}) is more than max_waiting ({self.max_waiting}): "
                "the server could never accept such a request; lower one or raise the other"
            )
        if self.projects_folder is not None and self.jobs_folder is None:
            raise ValueError(
                f"projects use the database of jobs: besides {get_variable_name('projects_folder')} "
                f"({get_option_name('projects_folder')}) set {get_variable_name('jobs_folder')} "
                f"({get_option_name('jobs_folder')})"
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


def load_settings(**values: Any) -> Settings:
    """Returns settings from the given values (None: not given), the environment and the defaults, in this order.

    Raises SettingsError.
    """
    try:
        return Settings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(map(_format_error, error.errors(include_url=False)))) from None


def find_unknown_variables(names: Iterable[str]) -> list[str]:
    """Returns the names of environment variables that look like settings but are none, such as misspelled ones."""
    known = {get_variable_name(setting) for setting in Settings.model_fields}
    return sorted(name for name in names if name.upper().startswith("FLORIST_") and name.upper() not in known)


def get_option_name(setting: str) -> str:
    """Returns the command-line option of a setting."""
    return "--" + setting.replace("_", "-")


def get_variable_name(setting: str) -> str:
    """Returns the environment variable of a setting."""
    return f"FLORIST_{setting.upper()}"


def _format_error(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    # Someone may have set a key instead of its hash: the values of api_keys are never repeated.
    value = "" if name == "api_keys" else f" (got {str(error['input'])[:60]!r})"
    return f"{get_variable_name(name)} ({get_option_name(name)}): {message}{value}"
