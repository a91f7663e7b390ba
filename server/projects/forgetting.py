"""What tells what a model has forgotten of the base's own world: drawn scenes of the seedling's, or pictures of the
dataset that its run replayed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune.tuning.config import TuneConfig
from server.engine.checkpoints.loading import SEEDLING
from server.engine.engine import Engine
from server.store.projects.records import ModelVersion, Project, Run
from server.store.projects.registry import Registry

if TYPE_CHECKING:
    from finetune.forgetting import Probe


class ForgettingNotMeasurableError(Exception):  # noqa: N818
    """There is nothing to tell by; the message says why."""


def probe_for(engine: Engine, registry: Registry, project: Project, model: ModelVersion, most: int) -> "Probe":
    """For a model on the engine's base, by at most so many scenes or pictures. Raises NothingToProbe, and DatasetError
    for a dataset that cannot be read any more."""
    try:
        from finetune import forgetting
        from finetune.tuning import replay

        if engine.checkpoint.name == SEEDLING:
            return forgetting.drawn(most)
        for run in _runs(registry, project, model):
            config = TuneConfig.model_validate({**run.config, "start": ""})
            if config.replays:
                kept, labels = replay.kept_back(config)
                if not kept:
                    raise ForgettingNotMeasurableError(
                        f"{config.replay_from} has too few pictures to keep any back from replaying"
                    )
                return forgetting.pictured(kept[:most], labels, config.replay_from)
    except ModuleNotFoundError as error:  # it draws, and reads datasets: not every server can
        raise ForgettingNotMeasurableError(
            f"the package {error.name} is missing: pip install 'florist[train]'"
        ) from None
    raise ForgettingNotMeasurableError(
        "its run named no dataset of the base's own world (`replay_from`), and only the seedling's can be drawn"
    )


def _runs(registry: Registry, project: Project, model: ModelVersion) -> Iterator[Run]:
    """The model's, or those of all the models that it is made of."""
    if model.run is not None:
        yield registry.run(project, model.run)
    for number in model.combined.models if model.combined else ():
        if number is not None:
            yield from _runs(registry, project, registry.model(project, number))
