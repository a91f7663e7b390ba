"""The adapters that answer for a model: one, or several whose answers are merged."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from server.engine.adapters.class_list import read_class_list
from server.engine.adapters.errors import UnknownAdapterError
from server.engine.answer_handles import join_results, submit_all
from server.engine.class_lists import hold_class_list, keep_classes, list_known_classes
from server.projects.ensemble_handle import EnsembleHandle
from server.store.projects.ensembles import AdapterSum, BoxFusion, LabelRouting
from server.store.projects.records import ModelVersion, Project

if TYPE_CHECKING:  # they import torch or SQLAlchemy
    from prompts.class_lists import ClassList
    from server.engine.answer_handles import AnswerHandle
    from server.engine.engine import Engine
    from server.engine.handle import Handle
    from server.engine.request import Request, Result
    from server.projects.project_files import ProjectFiles
    from server.store.projects.project_store import ProjectStore


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter on disk: its name in the engine, its folder, and the SHA-256 of its weights."""

    name: str
    folder: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Ensemble:
    """One model, or several, that answer a prompt together.

    Attributes:
        name: What answers report as `adapter`; None for the base model.
        members: Names of adapters in the engine; None for the base model.
        adapters: The members that have to be loaded first.
        definition: How the answers are merged; None if there is one member.
    """

    name: str | None
    members: tuple[str | None, ...]
    adapters: tuple[StoredAdapter, ...] = ()
    definition: BoxFusion | LabelRouting | None = None

    @classmethod
    def of_one(cls, adapter: str | None) -> "Ensemble":
        """Returns one loaded adapter as an ensemble; None: the base model."""
        return cls(adapter, (adapter,))

    def submit(self, submit: "Callable[[Request], Handle]", request: "Request") -> "Handle | EnsembleHandle":
        """Submits a request to each member by `submit`. Raises what that does. Then no member has a request."""
        if self.definition is None:
            return submit(replace(request, adapter=self.members[0]))
        handles = submit_all(submit, (replace(request, adapter=member) for member in self.members))
        return EnsembleHandle(handles, self._merge)

    def submit_held(
        self,
        submit: "Callable[[Request], Handle]",
        request: "Request",
        class_list: "ClassList | None",
        known: "Mapping[str | None, Sequence[str]]",
    ) -> "AnswerHandle":
        """Submits a request that is held to a class list, see `submit`. The merged answer has only its classes.

        `known`: the classes that each member knows, of `list_known_classes`.
        """

        def submit_member(own: "Request") -> "Handle":
            return submit(hold_class_list(own, class_list, known.get(own.adapter, ())))

        return keep_classes(self.submit(submit_member, request), request, class_list)

    def list_known_classes(self, engine: "Engine") -> "dict[str | None, tuple[str, ...]]":
        """Returns the classes that each member knows. The adapters must be loaded."""
        return {member: list_known_classes(engine, member) for member in self.members}

    def read_class_list(self) -> tuple[str, ...]:
        """Returns the classes in the folders of the adapters, each once; empty if none has a list. Raises
        ClassListFileError."""
        return tuple(dict.fromkeys(name for adapter in self.adapters for name in read_class_list(adapter.folder)))

    def split(self) -> list["Ensemble"]:
        """Returns each adapter as an ensemble of its own."""
        return [Ensemble.of_one(adapter.name) for adapter in self.adapters]

    def with_suffix(self, suffix: str) -> "Ensemble":
        """Returns the same members, with other names in the engine, so that they can be loaded a second time."""
        names = {adapter.name: f"{adapter.name}/{suffix}" for adapter in self.adapters}
        return replace(
            self,
            members=tuple(member and names[member] for member in self.members),
            adapters=tuple(replace(adapter, name=names[adapter.name]) for adapter in self.adapters),
        )

    def _merge(self, results: "Sequence[Result]") -> "Result":
        """Returns one result: merged annotations, the texts and tokens of all members, the time of the slowest."""
        from server.projects.answer_merging import merge_answers  # imports torch

        assert self.definition is not None
        annotations = merge_answers(self.definition, [result.annotations for result in results])
        return join_results(results, annotations)


class EnsembleBuilder:
    """Builds the ensembles of a store's models. A model with one adapter is an ensemble of one."""

    def __init__(self, store: "ProjectStore", files: "ProjectFiles") -> None:
        self._store, self._files = store, files

    def build(self, project: Project, model: ModelVersion) -> Ensemble:
        """Returns the ensemble that answers for a model. It is not loaded yet."""
        if model.ensemble is None or isinstance(model.ensemble, AdapterSum):
            adapter = self.get_adapter(project, model)
            return Ensemble(adapter.name, (adapter.name,), (adapter,))
        member_ids = model.ensemble.member_ids
        adapters = {
            member_id: self.get_adapter(project, self._store.models.get_model(project, member_id))
            for member_id in member_ids
            if member_id is not None
        }
        members = tuple(None if member_id is None else adapters[member_id].name for member_id in member_ids)
        return Ensemble(f"projects/{project.name}/model-{model.id}", members, tuple(adapters.values()), model.ensemble)

    def get_adapter(self, project: Project, model: ModelVersion) -> StoredAdapter:
        """Returns a model's own adapter. Its name has slashes, which no client can use for an adapter."""
        own = f"model-{model.id}" if model.run_id is None else f"run-{model.run_id}"
        folder = self._files.get_adapter_folder(project, model)
        return StoredAdapter(f"projects/{project.name}/{own}", folder, model.sha256)


@contextmanager
def load_adapters(engine: "Engine", ensembles: Iterable[Ensemble]) -> Iterator[None]:
    """Loads the adapters of ensembles into an engine for the duration of the context, each adapter once.

    Raises AdapterError. Then none of them stays loaded.
    """
    adapters = {adapter.name: adapter for ensemble in ensembles for adapter in ensemble.adapters}
    with ExitStack() as stack:
        for adapter in adapters.values():
            engine.load_adapter(adapter.name, adapter.folder, adapter.sha256)
            stack.callback(unload_adapter, engine, adapter.name)
        yield


def unload_adapter(engine: "Engine", name: str) -> None:
    """Removes an adapter from an engine, if it is still there."""
    with suppress(UnknownAdapterError):
        engine.unload_adapter(name)
