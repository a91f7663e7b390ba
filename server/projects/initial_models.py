"""The model that a fine-tune run starts from."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from finetune.tuning.config import TuneConfig
from server.projects.errors import InitialModelError
from server.store import InvalidStateError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import ModelVersion, Project

InitialModel = int | Literal["champion"]
# They decide which matrices an adapter has, and their shapes.
_SHAPE_SETTINGS = ("lora_rank", "lora_alpha", "frozen_stages")


def find_initial_model(
    store: ProjectStore, project: Project, initial_model: InitialModel, tasks: Sequence[str]
) -> ModelVersion:
    """Returns the model with this id, or the champion of the tasks.

    Raises NotFoundError, InvalidStateError if the champion is not one adapter, and InitialModelError for an ensemble.
    """
    if initial_model == "champion":
        model = _find_champion(store, project, tasks)
    else:
        model = store.models.get_model(project, initial_model)
    if model.run_id is None:
        raise InitialModelError(f"model {model.id} is an ensemble; name the id of a model that a run has trained")
    return model


def get_shape_settings(
    store: ProjectStore, project: Project, model: ModelVersion, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the settings that decide the shapes of an adapter, as the model's run had them.

    Raises InitialModelError if `settings` has other values.
    """
    assert model.run_id is not None
    # A setting that is newer than the run had its default value.
    config = {**TuneConfig().model_dump(mode="json"), **store.runs.get_run(project, model.run_id).config}
    shape = {name: config[name] for name in _SHAPE_SETTINGS}
    if different := [name for name, value in shape.items() if settings.get(name, value) != value]:
        values = ", ".join(f"{name} {shape[name]}" for name in different)
        raise InitialModelError(f"model {model.id} was trained with {values}; leave {' and '.join(different)} out")
    return shape


def _find_champion(store: ProjectStore, project: Project, tasks: Sequence[str]) -> ModelVersion:
    model_ids = [store.promotions.find_champion(project, task) for task in tasks]
    models = [store.models.get_model(project, model_id) for model_id in model_ids if model_id is not None]
    if not models:
        raise InvalidStateError(
            f"no model of {project.name} is promoted for {' or '.join(tasks)}: promote one first, name one by its id, "
            "or leave `initial_model` out to start from the base model"
        )
    if len({(model.run_id, model.sha256) for model in models}) > 1:
        ids = ", ".join(str(model.id) for model in models)
        raise InvalidStateError(
            f"several adapters answer {', '.join(tasks)}, those of the models {ids}: name one by its id"
        )
    return models[0]
