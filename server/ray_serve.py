"""The server on Ray Serve: `serve run server.ray_serve:app replicas=2 most_replicas=8 gpus=1`.

Each replica is the whole server with an engine of its own, on whichever machine Ray finds for it. Its settings are the
FLORIST_ variables where the application is built (the shell of `serve run`; the `env_vars` of a `runtime_env` that
`serve deploy` is given), and go with it to every machine; on which address it listens, how many requests it takes, and
when it stops are Ray Serve's to say. What one replica alone would know is left to others: jobs to `florist label
--engine ray`, and adapters, which a replica loads from the settings' folder as it begins, cannot be changed by request.
"""

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve import Application
from starlette.routing import Route

from server import settings as settings_
from server.api.problems import METHOD_NOT_ALLOWED, Problem
from server.app import create_app
from server.serving import load_engine
from server.settings import Settings, variable


class Scale(BaseModel):
    """How large the deployment is: replicas, more of them under load where `most_replicas` says so, and what each takes
    of its machine."""

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(1, ge=1)
    most_replicas: int | None = Field(None, ge=1)
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Scale":
        if self.most_replicas is not None and self.most_replicas < self.replicas:
            raise ValueError(f"most_replicas ({self.most_replicas}) is less than replicas ({self.replicas})")
        return self


def app(args: Scale) -> Application:
    """The application, which Ray Serve's commands take by this name. Raises SettingsError."""
    settings = settings_.load()
    if settings.jobs_folder is not None:
        raise settings_.SettingsError(
            f"{variable('jobs_folder')}: on Ray Serve no replica runs jobs; unset it, and label by `florist label "
            f"--engine ray` or by a `florist serve` of its own"
        )

    if settings.device == "auto":  # a replica takes what Ray gives it, and not a worker for each core of the machine
        settings = settings.model_copy(update={"device": "cuda" if args.gpus else "cpu"})

    def build() -> FastAPI:
        return replica(settings)

    # A request more than an engine decodes at a time is worth another replica; up to the setting's number may wait.
    scaling = {
        "min_replicas": args.replicas,
        "max_replicas": args.most_replicas or args.replicas,
        "target_ongoing_requests": settings.max_batch,
    }
    deployment = serve.deployment(
        serve.ingress(build)(),
        name="florist",
        autoscaling_config=scaling,
        max_ongoing_requests=settings.max_waiting,
        graceful_shutdown_timeout_s=settings.shutdown_timeout,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
    )
    return deployment.bind()


def replica(settings: Settings) -> FastAPI:
    """The server of one replica; it has its model before it is ready, for Ray sends requests from then on. Raises
    CannotLoad."""
    application = create_app(settings, load_engine(settings))
    refusal = Route("/v1/adapters/{name}", _refuse, methods=["PUT", "DELETE"])
    application.router.routes.insert(0, refusal)
    return application


async def _refuse(_: object) -> None:
    raise Problem(
        METHOD_NOT_ALLOWED,
        f"a request reaches one replica of several: change the folder that {variable('adapters_folder')} names, and "
        f"deploy again",
    )
