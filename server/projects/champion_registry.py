"""Who answers for a project's tasks: the promoted models, their adapters loaded into the engine."""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from server.engine.adapters.registry import AdapterError
from server.engine.engine import Engine
from server.projects.ensembles import Ensemble, alone, unload
from server.store.projects.records import BaseMismatchError, NotFoundError, Project

logger = logging.getLogger(__name__)


class ChampionRegistry:
    """A change is seen by whoever asks next; requests under way end on the adapters that they began with. Safe to use
    from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._projects: dict[str, Project] = {}
        self._named: dict[tuple[str, str], Ensemble] = {}  # project, task → who answers
        self._lock = threading.Lock()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Between asking who answers and submitting a prompt to it, no adapter is taken away. Not for long."""
        with self._lock:
            yield

    def answering(self, project: str, task: str) -> Ensemble:
        """Who answers, be it the base alone. Raises Missing, and OtherBase."""
        if (found := self._projects.get(project)) is None:
            raise NotFoundError(f"there is no project {project!r}; GET /v1/projects lists them")
        self.check(found)
        return self._named.get((project, task)) or alone(None)

    def check(self, project: Project) -> None:
        """Raises OtherBase."""
        if project.base != (served := self._engine.checkpoint.sha256):
            raise BaseMismatchError(project.name, project.base, served)

    def add(self, project: Project, champions: Mapping[str, Ensemble]) -> None:
        """A project, and who answers by task. What cannot be loaded is logged, and the base answers instead."""
        with self._lock:
            self._projects[project.name] = project
        if project.base != self._engine.checkpoint.sha256:
            logger.error("the project %s is not served: it stands on other weights", project.name)
            return
        for task, panel in champions.items():
            try:
                with self.loaded(panel):
                    self.put(project, task, panel)
            except AdapterError as error:
                logger.error("%s does not answer for %s: %s", panel.name, task, error)

    def remove(self, project: Project) -> None:
        """With its adapters."""
        with self._lock:
            self._projects.pop(project.name, None)
            for key in [key for key in self._named if key[0] == project.name]:
                self._unload(self._named.pop(key).members)

    @contextmanager
    def loaded(self, panel: Ensemble | None) -> Iterator[None]:
        """With a panel's adapters in the engine, those too that were not there; where anything goes wrong within, none
        of these stays. Raises AdapterError."""
        try:
            for adapter in panel.adapters if panel else ():
                # By its weights too: a database may give the number of a run that was deleted to another one.
                if (adapter.name, adapter.sha256) not in {(each.name, each.sha256) for each in self._engine.adapters()}:
                    self._engine.load_adapter(adapter.name, adapter.folder, adapter.sha256)
            yield
        except BaseException:
            with self._lock:
                self._unload(panel.members if panel else ())
            raise

    def put(self, project: Project, task: str, panel: Ensemble | None) -> None:
        """From now on `panel`, which is loaded, answers; None: the base alone."""
        key = project.name, task
        with self._lock:
            old = self._named.pop(key, None)
            if panel is not None:
                self._named[key] = panel
            if old is not None:
                self._unload(old.members)

    def _unload(self, members: Iterable[str | None]) -> None:
        """Those adapters that no champion has any more."""
        asked = {member for panel in self._named.values() for member in panel.members}
        for member in {*members} - asked - {None}:
            unload(self._engine, str(member))
