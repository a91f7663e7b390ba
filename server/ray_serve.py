"""The server on Ray Serve: `serve run server.ray_serve:app replicas=2 max_replicas=8 gpus=1`.

Each replica is a complete server with its own engine, on a machine that Ray chooses. The settings are the FLORIST_
variables of the process that builds the application: the shell of `serve run`, or `env_vars` in the `runtime_env` of
`serve deploy`. They are sent to every machine. Ray Serve, not the settings, decides where a replica listens, how many
requests it takes and when it stops.

State that only one replica would have is not supported: label with `florist label --engine ray` instead of jobs, and
change adapters in the folder of the settings, which every replica loads when it starts.
"""

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve import Application
from starlette.routing import Route

from server.api.problems import METHOD_NOT_ALLOWED, ProblemError
from server.app import create_app
from server.settings import Settings, SettingsError, get_variable_name, load_settings
from server.startup import load_engine


class DeploymentSize(BaseModel):
    """The size of the deployment: the number of replicas, and the resources of each.

    With `max_replicas`, Ray Serve adds replicas under load.
    """

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1)
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_order(self) -> "DeploymentSize":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is less than replicas ({self.replicas})")
        return self


def app(args: DeploymentSize) -> Application:
    """Returns the application. The commands of Ray Serve call it by this name. Raises SettingsError."""
    settings = load_settings()
    if settings.jobs_folder is not None:
        raise SettingsError(
            f"{get_variable_name('jobs_folder')}: replicas on Ray Serve run no jobs; unset it, and label with `florist "
            f"label --engine ray` or with a separate `florist serve`"
        )
    if settings.device == "auto":  # one worker on what Ray assigns, not one worker per core of the machine
        settings = settings.model_copy(update={"device": "cuda" if args.gpus else "cpu"})

    def build() -> FastAPI:
        return create_replica(settings)

    # Ray Serve adds replicas when a replica has more requests than its engine decodes together.
    scaling = {
        "min_replicas": args.replicas,
        "max_replicas": args.max_replicas or args.replicas,
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


def create_replica(settings: Settings) -> FastAPI:
    """Returns the app of one replica. Loads the model first, because Ray sends requests as soon as the app exists.

    Raises StartupError.
    """
    replica = create_app(settings, load_engine(settings))
    refusal = Route("/v1/adapters/{name}", _refuse_change, methods=["PUT", "DELETE"])
    replica.router.routes.insert(0, refusal)
    return replica


async def _refuse_change(_: object) -> None:
    raise ProblemError(
        METHOD_NOT_ALLOWED,
        f"a request reaches only one replica: change the folder that {get_variable_name('adapters_folder')} names, and "
        "deploy again",
    )
