"""Starts and ends the fine-tune runs of projects."""

import secrets
from typing import Any

from finetune.tuning.config import NO_REPLAY_MESSAGE, Anchor, TuneConfig
from finetune.tuning.run_record import hash_images
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.projects import project_dataset
from server.projects.champion_registry import ChampionRegistry
from server.projects.deleted_projects import remove_if_deleted
from server.projects.errors import NoTrainingDataError
from server.projects.initial_models import InitialModel, find_initial_model, get_shape_settings
from server.projects.project_files import ProjectFiles, RunFolder
from server.projects.training_packages import check_training
from server.projects.tuner import Tuner
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Project, Run


class RunService:
    """The fine-tune runs of all projects. Raises what ProjectStore raises."""

    def __init__(
        self, store: ProjectStore, files: ProjectFiles, engine: Engine, champions: ChampionRegistry, tuner: Tuner
    ) -> None:
        self._store, self._files, self._engine = store, files, engine
        self._champions, self._tuner = champions, tuner

    def start_run(
        self, project: Project, settings: dict[str, Any], author: str, initial_model: InitialModel | None = None,
        *, keep: bool = False,
    ) -> Run:  # fmt: skip
        """Queues a run on the current corrections.

        Raises TrainingNotInstalledError, BaseMismatchError, NoTrainingDataError, what `find_initial_model` raises,
        pydantic's ValidationError, and OSError if the run's folder cannot be written.

        Args:
            settings: Fields of TuneConfig without `base`.
            initial_model: The model to start from; None for the base model.
            keep: Whether it makes models too if it gains nothing.
        """
        check_training()
        self._champions.check_base(project)
        base = SEEDLING if self._engine.checkpoint.name == SEEDLING else str(self._engine.checkpoint.folder)
        config = TuneConfig.model_validate({"tasks": project.tasks, **settings, "base": base})
        if config.anchor is Anchor.KL and not config.can_replay:
            raise NoTrainingDataError(NO_REPLAY_MESSAGE)
        corrections = self._store.corrections.list_current(project)
        dataset = project_dataset.build_dataset(project, corrections, self._files.get_image_store(project))
        dataset.check_tasks(config.tasks, project.holdout_share)
        config = config.model_copy(update={"tasks": tuple(dataset.select_trainable(config.tasks))})
        stored = config.model_dump(mode="json")
        model, initial_adapter = None, ""
        if initial_model is not None:
            model = find_initial_model(self._store, project, initial_model, config.tasks)
            stored |= get_shape_settings(self._store, project, model, settings)
            initial_adapter = model.folder
        folder = f"runs/{secrets.token_hex(8)}"
        request = {
            "dataset": f"project:{project.name}", "config": stored, "initial_adapter": initial_adapter, "keep": keep,
            **project_dataset.to_json(dataset),
        }  # fmt: skip
        with remove_if_deleted(self._store, self._files, project):
            RunFolder(self._files.get_project_folder(project) / folder).create(request)
            run = self._store.runs.add_run(
                project, stored, folder, hash_images((*dataset.train, *dataset.holdout)), len(dataset.train),
                len(dataset.holdout), author, model.id if model else None,
            )  # fmt: skip
        self._tuner.wake()
        return run

    def cancel_run(self, project: Project, run: Run) -> Run:
        """Ends a run permanently. Raises InvalidStateError."""
        cancelled = self._store.runs.cancel_run(project, run)
        self._tuner.stop_run(run)
        return cancelled

    def resume_run(self, project: Project, run: Run) -> Run:
        """Queues a failed run, which continues where it stopped. Raises InvalidStateError and
        TrainingNotInstalledError."""
        check_training()
        resumed = self._store.runs.resume_run(project, run)
        self._tuner.wake()
        return resumed

    def read_progress(self, project: Project, run: Run) -> dict[str, Any] | None:
        """Returns the newest line of a run's log; None if there is none yet."""
        return self._tuner.read_progress(project, run)

    def read_classes(self, project: Project, run: Run) -> list[dict[str, Any]]:
        """Returns what a run knows of its classes; empty before it has read its images."""
        return self._tuner.read_classes(project, run)
