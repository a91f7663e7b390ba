"""Projects to test with: a server's, with corrected pictures and models by chance."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.engine.engine import Engine
from server.projects import fine_tune_process
from server.projects.projects import Projects
from server.store import JobStore
from server.store.projects.records import ModelVersion, Project, RunState
from tests.server.engine.tiny import save_adapter
from tests.server.projects.scenes import scenes

QUICK = {"steps": 4, "evaluate": 2, "pictures": 2, "prompts": 1, "metric": "loss", "replay": 0, "rank": 2, "augment": 0}


@contextmanager
def opened(folder: Path, engine: Engine, *, start: bool = True) -> Iterator[Projects]:
    """The projects of a server, from its start to its end."""
    with JobStore(f"sqlite:///{folder / 'florist.db'}") as store:
        projects = Projects(folder / "projects", store)
        try:
            projects.load(engine)
            if start:
                projects.start()
            yield projects
        finally:
            projects.close()


def corrected(projects: Projects, name: str = "emoji", count: int = 6) -> Project:
    project = projects.create(name, ("<OD>",), 0.5)
    for scene in scenes(count):
        projects.correct(project, scene.data, scene.boxes)
    return project


def made(
    projects: Projects, project: Project, seed: int, task: str = "<OD>", modules: str = ".*fc1", std: float = 0.05,
    **settings: Any,
) -> ModelVersion:  # fmt: skip
    """A model by chance, of a run that nobody works on."""
    run = projects.tune(project, {**QUICK, **settings}, "Ada")
    folder = projects.tuner.of(project, run) / fine_tune_process.ADAPTER
    save_adapter(folder, seed, std, target_modules=modules)
    sha256 = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    projects.registry.turn_run(run, RunState.RUNNING, (RunState.QUEUED,))
    projects.registry.finish(project, run, {}, sha256, [task])
    return projects.registry.models(project)[-1]


def promote(projects: Projects, project: Project, model: ModelVersion) -> None:
    projects.promote(project, model, "Ada", forced=True, reason="a test")


def loaded(engine: Engine) -> set[str]:
    return {adapter.name for adapter in engine.adapters()}
