"""Who answers for a project's tasks: the promoted adapters, loaded into the engine."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from server.engine.adapters import AdapterError, UnknownAdapter
from server.engine.engine import Engine
from server.projects.records import Missing, Model, OtherBase, Project

logger = logging.getLogger(__name__)


class Champions:
    """A change is seen by whoever asks next; requests under way end on the adapter that they began with. Safe to use
    from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._projects: dict[str, Project] = {}
        self._named: dict[tuple[str, str], str] = {}  # project, task → adapter
        self._lock = threading.Lock()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Between asking who answers and submitting a prompt to it, no adapter is taken away. Not for long."""
        with self._lock:
            yield

    def answering(self, project: str, task: str) -> str | None:
        """The adapter that answers; None: the base alone. Raises Missing, and OtherBase."""
        if (found := self._projects.get(project)) is None:
            raise Missing(f"there is no project {project!r}; GET /v1/projects lists them")
        self.check(found)
        return self._named.get((project, task))

    def check(self, project: Project) -> None:
        """Raises OtherBase."""
        if project.base != (served := self._engine.checkpoint.sha256):
            raise OtherBase(project.name, project.base, served)

    def add(self, project: Project, champions: Mapping[str, tuple[Model, Path]]) -> None:
        """A project, and by task the model that answers and its adapter's folder. What cannot be loaded is logged, and
        the base answers instead."""
        with self._lock:
            self._projects[project.name] = project
        if project.base != self._engine.checkpoint.sha256:
            logger.error("the project %s is not served: it stands on other weights", project.name)
            return
        for task, (model, folder) in champions.items():
            try:
                self.put(project, task, self.load(project, model, folder))
            except AdapterError as error:
                logger.error("model %d of %s does not answer for %s: %s", model.id, project.name, task, error)

    def remove(self, project: Project) -> None:
        """With its adapters."""
        with self._lock:
            self._projects.pop(project.name, None)
            for key in [key for key in self._named if key[0] == project.name]:
                self._unname(key)

    def load(self, project: Project, model: Model, folder: Path) -> str:
        """Puts a model's adapter into the engine, unless it is there: its name. Raises AdapterError."""
        name = f"projects/{project.name}/run-{model.run}"  # no name that /v1/adapters takes, to replace or remove it
        if name not in self._loaded():
            self._engine.load_adapter(name, folder, model.sha256)
        return name

    def put(self, project: Project, task: str, adapter: str | None) -> None:
        """From now on `adapter`, which is loaded, answers; None: the base alone."""
        with self._lock:
            self._unname((project.name, task), adapter)
            if adapter is not None:
                self._named[project.name, task] = adapter

    def tidy(self, adapter: str) -> None:
        """Unloads an adapter that was loaded in vain."""
        with self._lock:
            if adapter not in self._named.values():
                with suppress(UnknownAdapter):
                    self._engine.unload_adapter(adapter)

    def _unname(self, key: tuple[str, str], successor: str | None = None) -> None:
        old = self._named.pop(key, None)
        if old is not None and old != successor and old not in self._named.values():
            with suppress(UnknownAdapter):
                self._engine.unload_adapter(old)

    def _loaded(self) -> set[str]:
        return {adapter.name for adapter in self._engine.adapters()}
