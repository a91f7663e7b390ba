"""From which of a project's models a fine-tune goes on."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from finetune.tuning.config import TuneConfig
from server.store import NotNow
from server.store.projects.records import InitialModelError, ModelVersion, Project
from server.store.projects.registry import Registry

InitialModel = int | Literal["champion"]
_SHAPE = ("rank", "alpha", "frozen_stages")  # what decides which matrices an adapter has, and their sizes


def named(registry: Registry, project: Project, start: InitialModel, tasks: Sequence[str]) -> ModelVersion:
    """The model of this id, or the `champion` of those of `tasks` that have one. Raises Missing, NotNow where no single
    adapter is the champion, and CannotStart for a model without an adapter of a run."""
    model = _champion(registry, project, tasks) if start == "champion" else registry.model(project, start)
    if model.run is None:
        raise InitialModelError(f"model {model.id} is combined of others; name one that a run made, by its id")
    return model


def shape(registry: Registry, project: Project, model: ModelVersion, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make an adapter fit the model's: those of its run. Raises CannotStart where `settings` has
    others."""
    assert model.run is not None
    # A setting that came later than the run had its default.
    made = {**TuneConfig().model_dump(mode="json"), **registry.run(project, model.run).config}
    own = {name: made[name] for name in _SHAPE}
    if others := [name for name, value in own.items() if settings.get(name, value) != value]:
        said = ", ".join(f"{name} {own[name]}" for name in others)
        raise InitialModelError(
            f"model {model.id} was made with {said}; leave {' and '.join(others)} out to take the same"
        )
    return own


def _champion(registry: Registry, project: Project, tasks: Sequence[str]) -> ModelVersion:
    numbers = [registry.champion(project, task) for task in tasks]
    models = [registry.model(project, number) for number in numbers if number is not None]
    if not models:
        raise NotNow(
            f"no model of {project.name} is promoted for {' or '.join(tasks)}: promote one first, name one by its id, "
            "or leave `start` out to begin from the base"
        )
    if len({(model.run, model.sha256) for model in models}) > 1:
        ids = ", ".join(str(model.id) for model in models)
        raise NotNow(f"several adapters answer for {', '.join(tasks)}, those of the models {ids}: name one by its id")
    return models[0]
