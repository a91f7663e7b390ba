"""Who answers for a model: an adapter, or several, and the base where it is among them, whose answers become one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from server.engine.adapters.registry import UnknownAdapter
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.projects.ensemble_handle import EnsembleHandle
from server.store.projects.ensembles import AdapterSum, BoxFusion, LabelRouting
from server.store.projects.records import ModelVersion, Project
from server.store.projects.registry import Registry


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter: its name in the engine, where it lies, and the SHA-256 of its weights."""

    name: str
    folder: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Ensemble:
    """`name`: what answers tell; `members`: adapters by their names in the engine, None for the base alone; `adapters`:
    those that a project has to load for it."""

    name: str | None
    members: tuple[str | None, ...]
    adapters: tuple[StoredAdapter, ...] = ()
    combined: BoxFusion | LabelRouting | None = None

    def ask(self, submit: Callable[[Request], Handle], request: Request) -> Handle | EnsembleHandle:
        """Submits a request to each member. Raises what `submit` does, and then none is asked."""
        if self.combined is None:
            return submit(replace(request, adapter=self.members[0]))
        handles: list[Handle] = []
        try:
            for member in self.members:
                handles.append(submit(replace(request, adapter=member)))
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise
        return EnsembleHandle(handles, self._together)

    def apart(self) -> list["Panel"]:
        """Each of its adapters as a panel of one."""
        return [alone(adapter.name) for adapter in self.adapters]

    def renamed(self, suffix: str) -> "Panel":
        """The same members, loaded by names of their own."""
        names = {adapter.name: f"{adapter.name}/{suffix}" for adapter in self.adapters}
        return replace(
            self,
            members=tuple(member and names[member] for member in self.members),
            adapters=tuple(replace(adapter, name=names[adapter.name]) for adapter in self.adapters),
        )

    def _together(self, results: Sequence[Result]) -> Result:
        """One answer: of each its text, a line each, and its tokens; the time of the slowest."""
        assert self.combined is not None
        return Result(
            annotations=list(self.combined.merged([result.annotations for result in results])),
            text="\n".join(result.text for result in results),
            tokens=[token for result in results for token in result.tokens],
            logprobs=[logprob for result in results for logprob in result.logprobs],
            finish="length" if any(result.finish == "length" for result in results) else "stop",
            dropped=[dropped for result in results for dropped in result.dropped],
            timing=max((result.timing for result in results), key=lambda timing: timing.total_ms),
        )


def alone(adapter: str | None) -> Ensemble:
    """One adapter, or the base."""
    return Ensemble(adapter, (adapter,))


@contextmanager
def loaded(engine: Engine, panels: Iterable[Ensemble]) -> Iterator[None]:
    """With the adapters of panels in an engine, each once: several panels may have the same. Raises AdapterError, and
    then none of them stays."""
    members = {adapter.name: adapter for panel in panels for adapter in panel.adapters}
    with ExitStack() as stack:
        for member in members.values():
            engine.load_adapter(member.name, member.folder, member.sha256)
            stack.callback(unload, engine, member.name)
        yield


def unload(engine: Engine, name: str) -> None:
    """Takes an adapter out of an engine, if nobody has done so by hand."""
    with suppress(UnknownAdapter):
        engine.unload_adapter(name)


class EnsembleBuilder:
    """Of a registry's models. `folder`: where the projects' folders are."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry, self.folder = registry, folder

    def of(self, project: Project, model: ModelVersion) -> Ensemble:
        """Who answers for a model."""
        if model.combined is None or isinstance(model.combined, AdapterSum):
            adapter = self.adapter(project, model)
            return Ensemble(adapter.name, (adapter.name,), (adapter,))
        numbers = model.combined.members
        adapters = {n: self.adapter(project, self.registry.model(project, n)) for n in numbers if n is not None}
        names = tuple(None if n is None else adapters[n].name for n in numbers)
        return Ensemble(f"projects/{project.name}/model-{model.id}", names, tuple(adapters.values()), model.combined)

    def adapter(self, project: Project, model: ModelVersion) -> StoredAdapter:
        """The model's own, by a name that /v1/adapters does not take, to replace or remove it."""
        own = f"model-{model.id}" if model.run is None else f"run-{model.run}"
        return StoredAdapter(
            f"projects/{project.name}/{own}", self.folder / project.folder / model.folder, model.sha256
        )
