"""The projects of a server."""

import secrets
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from server.engine.engine import Engine
from server.jobs.output_folder import claim_output_folder
from server.projects.backtester import Backtester
from server.projects.champion_registry import ChampionRegistry
from server.projects.class_lists import check_classes
from server.projects.correction_service import CorrectionService
from server.projects.forgetting import SceneEvaluation
from server.projects.model_service import ModelService
from server.projects.pinned_models import PinnedProjectModels
from server.projects.project_files import ProjectFiles
from server.projects.run_service import RunService
from server.projects.tuner import Tuner
from server.store import InvalidStateError
from server.store.database import Database
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import ENDED_STATES, Project


class Projects:
    """Creates and deletes projects, and gives access to everything else. Safe to use from any thread.

    Call `load` with the engine, then `start`. `runs`, `models` and `champions` need the engine.

    Attributes:
        store: The database.
        files: The files of all projects.
        corrections: Adds corrections and selects images to correct.
        pinned_models: The models that jobs use.
    """

    def __init__(
        self, folder: Path, database: Database, *, tune_command: Sequence[str] = (),
        scene_evaluation: SceneEvaluation | None = None,
    ) -> None:  # fmt: skip
        """Opens the projects in `folder`, which no other server may use. Raises OSError.

        Args:
            database: The database of the server's jobs, which has the projects too.
            tune_command: Starts the process of a fine-tune run (see Tuner).
            scene_evaluation: Measures the forgetting of the seedling (see Backtester).
        """
        self.files = ProjectFiles(folder.absolute())
        with ExitStack() as stack:
            stack.enter_context(claim_output_folder(self.files.folder, "server"))
            self.store = ProjectStore(database, self.files.create_storage_id())
            self._resources = stack.pop_all()
        self.corrections = CorrectionService(self.store, self.files)
        self.pinned_models = PinnedProjectModels(self.store, self.files)
        self._tuner = Tuner(self.store, self.files, tune_command)
        self._backtester = Backtester(self.store, self.files, scene_evaluation)
        self._engine: Engine | None = None
        self._champions: ChampionRegistry | None = None
        self._runs: RunService | None = None
        self._models: ModelService | None = None

    def load(self, engine: Engine) -> None:
        """Loads the champions into an engine."""
        self._engine = engine
        self._champions = ChampionRegistry(engine, self.store.database.max_wait)
        self._runs = RunService(self.store, self.files, engine, self._champions, self._tuner)
        self._models = ModelService(self.store, self.files, self._champions, self._backtester)
        for project in self.store.list_projects():
            self._champions.add_project(project, self._models.find_champions(project))

    def start(self) -> None:
        """Starts to work on queued runs and backtests."""
        self._tuner.start(self.engine)
        self._backtester.start(self.engine)

    def close(self) -> None:
        """Stops. Running work continues after the next start."""
        self._tuner.close()
        self._backtester.close()
        self._resources.close()

    @property
    def engine(self) -> Engine:
        """The engine that `load` was given."""
        assert self._engine is not None
        return self._engine

    @property
    def champions(self) -> ChampionRegistry:
        """The promoted models."""
        assert self._champions is not None
        return self._champions

    @property
    def runs(self) -> RunService:
        """Starts and ends fine-tune runs."""
        assert self._runs is not None
        return self._runs

    @property
    def models(self) -> ModelService:
        """Builds, tests and promotes models."""
        assert self._models is not None
        return self._models

    def create_project(
        self, name: str, tasks: Sequence[str], holdout_share: float, classes: Sequence[str] = ()
    ) -> Project:
        """Creates a project that is based on the served model. Raises NameTakenError and InvalidClassListError."""
        checked = check_classes(classes, self.engine)
        base_sha256, folder = self.engine.checkpoint.sha256, f"project-{secrets.token_hex(8)}"
        with self.champions.hold_changes():
            project = self.store.create_project(
                Project(0, name, base_sha256, tuple(tasks), holdout_share, folder, 0.0, checked)
            )
            self.champions.add_project(project, {})
        return project

    def set_classes(self, project: Project, classes: Sequence[str]) -> Project:
        """Declares the classes of a project in place of those before; none: answers and corrections may name any.

        Its corrections stay as they are; `corrections.count_outside` says what the list leaves out. Raises
        InvalidClassListError and NotFoundError.
        """
        checked = check_classes(classes, self.engine)
        with self.champions.hold_changes():
            changed = self.store.set_classes(project, checked)
            self.champions.update_project(changed)
        return changed

    def delete_project(self, project: Project) -> None:
        """Deletes a project with its images, runs and adapters. Running prompts finish."""
        with self.champions.hold_changes():
            for run in self.store.runs.list_runs(project):
                if run.state not in ENDED_STATES:
                    with suppress(InvalidStateError):  # it has ended in the meantime
                        self.runs.cancel_run(project, run)
            self.store.delete_project(project)
            self.champions.remove_project(project)
        shutil.rmtree(self.files.get_project_folder(project), ignore_errors=True)
