"""Projects to test with: opened as a server does, with corrected images and random models."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.engine.engine import Engine
from server.projects.forgetting import SceneEvaluation
from server.projects.projects import Projects
from server.store.jobs.job_store import JobStore
from server.store.projects.records import ExecutionState, ModelVersion, Project
from tests.server.engine.tiny import save_adapter
from tests.server.projects.scenes import draw_scenes

QUICK = {
    "steps": 4, "evaluate_every": 2, "batch_size": 2, "prompts_per_image": 1, "metric": "loss", "replay_share": 0,
    "lora_rank": 2, "augmentation": 0,
}  # fmt: skip
TUNE_COMMAND = (sys.executable, "-m", "server.cli.tune_process")


@contextmanager
def open_projects(
    folder: Path, engine: Engine, *, start: bool = True, scene_evaluation: SceneEvaluation | None = None
) -> Iterator[Projects]:
    """The projects of a server, from its start to its end. `start`: whether queued work is done."""
    with JobStore(f"sqlite:///{folder / 'florist.db'}") as job_store:
        projects = Projects(
            folder / "projects", job_store.database, tune_command=TUNE_COMMAND, scene_evaluation=scene_evaluation
        )
        try:
            projects.load(engine)
            if start:
                projects.start()
            yield projects
        finally:
            projects.close()


def create_project(projects: Projects, name: str = "emoji", images: int = 6) -> Project:
    """Creates a project with corrected images."""
    project = projects.create_project(name, ("<OD>",), 0.5)
    for scene in draw_scenes(images):
        projects.corrections.add_correction(project, scene.data, scene.boxes)
    return project


def add_random_model(
    projects: Projects, project: Project, seed: int, task: str = "<OD>", modules: str = ".*fc1", std: float = 0.05,
    **settings: Any,
) -> ModelVersion:  # fmt: skip
    """Adds a model with random weights, of a run that is not executed."""
    run = projects.runs.start_run(project, {**QUICK, **settings}, "Ada")
    folder = projects.files.get_run_folder(project, run).adapter
    save_adapter(folder, seed, std, target_modules=modules)
    sha256 = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    projects.store.runs.change_state(run, ExecutionState.RUNNING, (ExecutionState.QUEUED,))
    projects.store.runs.finish_run(project, run, {}, sha256, [task])
    return projects.store.models.list_models(project)[-1]


def force_promotion(projects: Projects, project: Project, model: ModelVersion) -> None:
    projects.models.promote(project, model, "Ada", forced=True, reason="a test")


def list_adapters(engine: Engine) -> set[str]:
    return {adapter.name for adapter in engine.list_adapters()}
