"""What tells what a model has forgotten of the base's own world: drawn scenes of the seedling's, or pictures of the
dataset that its run replayed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from finetune.tuning.config import TuneConfig
from server.engine.checkpoint import SEEDLING
from server.engine.engine import Engine
from server.projects.records import Model, Project, Run
from server.projects.registry import Registry

Figures = dict[str, float]  # by task token


class NothingToProbe(Exception):  # noqa: N818
    """There is nothing to tell by; the message says why."""


@dataclass(frozen=True, slots=True)
class Probe:
    """`about`: by how many `scenes` or `pictures`, and `what` is told of each task; `ask`: an engine's figures; `lost`:
    of the base's and the model's, what is told, and its `mean`."""

    about: dict[str, Any]
    ask: Callable[[Engine], Figures]
    lost: Callable[[Figures, Figures], Figures]


def probe_for(engine: Engine, registry: Registry, project: Project, model: Model, most: int) -> Probe:
    """For a model on the engine's base, by at most so many scenes or pictures. Raises NothingToProbe, and DatasetError
    for a dataset that cannot be read any more."""
    try:
        if engine.checkpoint.name == SEEDLING:
            return _drawn(most)
        for run in _runs(registry, project, model):
            config = TuneConfig.model_validate({**run.config, "start": ""})
            if config.replays:
                return _of_dataset(config, most)
    except ModuleNotFoundError as error:  # it draws, and reads datasets: not every server can
        raise NothingToProbe(f"the package {error.name} is missing: pip install 'florist[train]'") from None
    raise NothingToProbe(
        "its run named no dataset of the base's own world (`replay_from`), and only the seedling's can be drawn"
    )


def _drawn(scenes: int) -> Probe:
    from finetune.probe import price, probe

    about = {"scenes": scenes, "what": "points of 100 lost on the base's own tasks"}
    return Probe(about, lambda engine: probe(engine, None, scenes), price)


def _of_dataset(config: TuneConfig, most: int) -> Probe:
    from finetune.probe import more, probe_dataset
    from finetune.tuning import replay

    kept, labels = replay.kept_back(config)
    if not kept:
        raise NothingToProbe(f"{config.replay_from} has too few pictures to keep any back from what is replayed")
    pictures = kept[:most]
    about = {"pictures": len(pictures), "what": f"corrections per 100 labels more on pictures of {config.replay_from}"}
    return Probe(about, lambda engine: probe_dataset(engine, pictures, labels), more)


def _runs(registry: Registry, project: Project, model: Model) -> Iterator[Run]:
    """The model's, or those of all the models that it is made of."""
    if model.run is not None:
        yield registry.run(project, model.run)
    for number in model.combined.models if model.combined else ():
        if number is not None:
            yield from _runs(registry, project, registry.model(project, number))
