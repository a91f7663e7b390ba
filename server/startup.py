"""What a server loads when it starts: the model, and the services for jobs and projects."""

import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.settings import Settings, get_variable_name

if TYPE_CHECKING:
    from finetune.forgetting import ForgettingEvaluation
    from server.engine.engine import Engine
    from server.jobs.queue import JobQueue
    from server.projects.projects import Projects

TUNE_COMMAND = (sys.executable, "-m", "server.cli.tune_process")
"""Runs a fine-tune run in its own process."""
logger = logging.getLogger(__name__)


class StartupError(Exception):
    """The model cannot be loaded. The message tells the operator why."""


class ServiceStartupError(StartupError):
    """Jobs or projects cannot be opened. The message tells the operator why."""


@dataclass(frozen=True, slots=True)
class Services:
    """The optional services of a server. None: the settings do not enable it."""

    jobs: "JobQueue | None" = None
    projects: "Projects | None" = None

    def load(self, engine: "Engine") -> None:
        """Loads the adapters of the projects into the engine."""
        if self.projects is not None:
            self.projects.load(engine)

    def start(self, engine: "Engine") -> None:
        """Starts the worker threads. They resume interrupted jobs and runs."""
        if self.jobs is not None:
            self.jobs.start(engine, self.projects.pinned_models if self.projects else None)
        if self.projects is not None:
            self.projects.start()

    def request_stop(self) -> None:
        """Tells the thread of the jobs to stop. Does not wait for it."""
        if self.jobs is not None:
            self.jobs.request_stop()

    def close(self) -> None:
        """Stops the worker threads and closes the database."""
        if self.projects is not None:
            self.projects.close()  # before the jobs: it uses their database
        if self.jobs is not None:
            self.jobs.close()


def load_engine(settings: Settings) -> "Engine":
    """Returns an engine with the model of the settings, without adapters. Raises StartupError."""
    # Imports torch, which takes seconds. The server already answers /healthz.
    from server.engine.checkpoints.errors import CheckpointError
    from server.engine.engine import Engine

    try:
        return Engine.load(settings.engine_config)
    except CheckpointError as error:
        raise StartupError(str(error)) from error


def load_adapters(engine: "Engine", settings: Settings) -> None:
    """Loads the adapters of the settings' folder. Raises OSError if the folder cannot be used."""
    from server.engine.adapters.store import AdapterStore

    AdapterStore(engine, settings.adapters_folder).load_all()


def open_services(settings: Settings) -> Services:
    """Opens jobs and projects, as far as the settings enable them. Raises ServiceStartupError."""
    if (jobs := _open_jobs(settings)) is None or settings.projects_folder is None:
        return Services(jobs)
    try:
        from server.projects.projects import Projects

        projects = Projects(
            settings.projects_folder,
            jobs.store.database,
            tune_command=TUNE_COMMAND,
            scene_evaluation=_create_scene_evaluation,
        )
        _warn_without_training()
        return Services(jobs, projects)
    except OSError as error:
        jobs.close()
        raise ServiceStartupError(f"{get_variable_name('projects_folder')}: {error}") from error


def _warn_without_training() -> None:
    from server.projects.errors import TrainingNotInstalledError
    from server.projects.training_packages import check_training

    try:
        check_training()
    except TrainingNotInstalledError as error:
        logger.warning("%s", error)


def _open_jobs(settings: Settings) -> "JobQueue | None":
    if settings.jobs_folder is None:
        return None
    from server.jobs.output_folder import OutputError
    from server.jobs.queue import JobQueue
    from server.jobs.uploads import UploadLimits
    from server.store import StoreError

    try:
        limits = UploadLimits(settings.max_upload_bytes, settings.max_upload_images, settings.upload_days)
        return JobQueue(
            settings.jobs_folder, settings.database_url, settings.jobs_sources, settings.database_timeout, limits
        )
    except OutputError as error:
        raise ServiceStartupError(f"{get_variable_name('jobs_folder')}: {error}") from error
    except StoreError as error:
        raise ServiceStartupError(f"{get_variable_name('database_url')}: {error}") from error


def _create_scene_evaluation(scenes: int) -> "ForgettingEvaluation":
    """Returns the forgetting evaluation of the seedling, on drawn scenes."""
    from seedling.forgetting import SceneForgetting  # needs the packages for drawing

    return SceneForgetting(scenes)
