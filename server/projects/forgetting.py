"""Selects how the forgetting of a model is measured: on drawn scenes for the seedling, else on images of the dataset
that the model's run replayed."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from finetune.tuning.config import TuneConfig
from labels.extras import describe_install
from server.engine.checkpoints.sources import SEEDLING
from server.projects.errors import ForgettingNotMeasurableError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import ModelVersion, Project, Run

if TYPE_CHECKING:  # torch
    from finetune.forgetting import ForgettingEvaluation
    from server.engine.engine import Engine

SceneEvaluation = Callable[[int], "ForgettingEvaluation"]
"""Number of scenes → the forgetting evaluation of the seedling."""


def find_evaluation(
    engine: "Engine", store: ProjectStore, project: Project, model: ModelVersion, max_images: int,
    scene_evaluation: SceneEvaluation | None,
) -> "ForgettingEvaluation":  # fmt: skip
    """Returns the forgetting evaluation of a model, with at most `max_images` scenes or images.

    Raises ForgettingNotMeasurableError, and DatasetError if the replayed dataset cannot be read any more.
    """
    try:
        from finetune.forgetting import DatasetForgetting
        from finetune.tuning.replay import load_replay_holdout

        if engine.checkpoint.name == SEEDLING and scene_evaluation is not None:
            return scene_evaluation(max_images)
        for run in _find_runs(store, project, model):
            config = TuneConfig.model_validate(run.config)
            if config.can_replay:
                images, classes = load_replay_holdout(config)
                if not images:
                    raise ForgettingNotMeasurableError(
                        f"{config.replay_dataset} has too few images to hold any out from replay"
                    )
                return DatasetForgetting(images[:max_images], classes, config.replay_dataset)
    except ModuleNotFoundError as error:  # a server can run without the packages for drawing and reading datasets
        raise ForgettingNotMeasurableError(
            f"the package {error.name} is missing: {describe_install('train')}"
        ) from None
    raise ForgettingNotMeasurableError(
        "its run has no dataset of the base model's own domain (`replay_dataset`), and only the seedling is measured "
        "on drawn scenes"
    )


def _find_runs(store: ProjectStore, project: Project, model: ModelVersion) -> Iterator[Run]:
    """Yields the model's run, or the runs of all models that it is built from."""
    if model.run_id is not None:
        yield store.runs.get_run(project, model.run_id)
    for model_id in model.ensemble.models if model.ensemble else ():
        if model_id is not None:
            yield from _find_runs(store, project, store.models.get_model(project, model_id))
