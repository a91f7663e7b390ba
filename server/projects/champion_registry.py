"""The promoted models of all projects, with their adapters loaded into the engine."""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prompts.class_lists import ClassList
from server.engine.adapters.errors import AdapterError
from server.projects.ensembles import Ensemble, unload_adapter
from server.projects.errors import BaseMismatchError
from server.store.errors import StoreUnavailableError
from server.store.projects.errors import NotFoundError
from server.store.projects.records import Project

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine

logger = logging.getLogger(__name__)


class ChampionRegistry:
    """Knows which ensemble answers each task of each project. Safe to use from any thread.

    A change takes effect with the next request. Running requests finish with the adapters that they started with.
    """

    def __init__(self, engine: "Engine", max_wait: float) -> None:
        """`max_wait`: how long a change waits for another one, in seconds."""
        self._max_wait = max_wait
        self._change_lock = threading.Lock()
        self._engine = engine
        self._projects: dict[str, Project] = {}
        self._champions: dict[tuple[str, str], Ensemble] = {}  # project name and task → ensemble
        self._lock = threading.Lock()

    @contextmanager
    def hold_changes(self) -> Iterator[None]:
        """Lets nobody else change champions or projects, here and in the database, within the context.

        Raises StoreUnavailableError if another change takes too long.
        """
        if not self._change_lock.acquire(timeout=self._max_wait):
            raise StoreUnavailableError("another change of a project or its champions takes long")
        try:
            yield
        finally:
            self._change_lock.release()

    @contextmanager
    def keep_adapters(self) -> Iterator[None]:
        """Unloads no adapter within the context, so that a prompt can be submitted to a champion. Keep it short."""
        with self._lock:
            yield

    def find_champion(self, project: str, task: str) -> Ensemble:
        """Returns the ensemble that answers; without a promotion, the base model. Raises NotFoundError and
        BaseMismatchError."""
        if (found := self._projects.get(project)) is None:
            names = ", ".join(sorted(self._projects)) or "none"
            raise NotFoundError(f"there is no project {project!r}; there are: {names}")
        self.check_base(found)
        return self._champions.get((project, task)) or Ensemble.of_one(None)

    def find_class_list(self, project: str) -> ClassList | None:
        """Returns the class list that a project declares; None if it declares none, or does not exist."""
        found = self._projects.get(project)
        return found.class_list if found else None

    def check_base(self, project: Project) -> None:
        """Raises BaseMismatchError if the engine has other weights than the project's."""
        if project.base_sha256 != (served := self._engine.checkpoint.sha256):
            raise BaseMismatchError(project.name, project.base_sha256, served)

    def add_project(self, project: Project, champions: Mapping[str, Ensemble]) -> None:
        """Adds a project and its champions by task. If an adapter cannot be loaded, this is logged, and the base model
        answers."""
        with self._lock:
            self._projects[project.name] = project
        if project.base_sha256 != self._engine.checkpoint.sha256:
            logger.error("project %s is not served: it is based on other weights", project.name)
            return
        for task, ensemble in champions.items():
            try:
                with self.load_adapters(ensemble):
                    self.set_champion(project, task, ensemble)
            except AdapterError as error:
                logger.error("%s does not answer %s: %s", ensemble.name, task, error)

    def update_project(self, project: Project) -> None:
        """Replaces what is known of a project, such as its classes."""
        with self._lock:
            self._projects[project.name] = project

    def remove_project(self, project: Project) -> None:
        """Removes a project and unloads its adapters."""
        with self._lock:
            self._projects.pop(project.name, None)
            for key in [key for key in self._champions if key[0] == project.name]:
                self._unload_unused(self._champions.pop(key).members)

    @contextmanager
    def load_adapters(self, ensemble: Ensemble | None) -> Iterator[None]:
        """Loads the adapters of an ensemble, if they are not loaded yet. They stay loaded unless the context raises.

        Raises AdapterError.
        """
        try:
            for adapter in ensemble.adapters if ensemble else ():
                # Compare weights too: a database may give the id of a deleted run to another run.
                loaded = {(each.name, each.sha256) for each in self._engine.list_adapters()}
                if (adapter.name, adapter.sha256) not in loaded:
                    self._engine.load_adapter(adapter.name, adapter.folder, adapter.sha256)
            yield
        except BaseException:
            with self._lock:
                self._unload_unused(ensemble.members if ensemble else ())
            raise

    def set_champion(self, project: Project, task: str, ensemble: Ensemble | None) -> None:
        """Makes a loaded ensemble answer from now on; None: the base model."""
        key = project.name, task
        with self._lock:
            previous = self._champions.pop(key, None)
            if ensemble is not None:
                self._champions[key] = ensemble
            if previous is not None:
                self._unload_unused(previous.members)

    def _unload_unused(self, members: Iterable[str | None]) -> None:
        """Unloads those adapters that no champion uses."""
        used = {member for ensemble in self._champions.values() for member in ensemble.members}
        for member in {*members} - used - {None}:
            unload_adapter(self._engine, str(member))
