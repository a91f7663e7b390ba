"""Runs, models and backtests for the tests of the stores."""

from labels.label_kind import LabelKind
from prompts.annotations import Box
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import (
    CorrectionContent,
    ExecutionState,
    ImageCounts,
    ModelVersion,
    PairedComparison,
    Project,
    Run,
)

BIRD = Box(label="bird", box=(1.0, 2.0, 30.0, 40.0))
CONTENT = CorrectionContent("a" * 64, LabelKind.OBJECTS, 64, 48, (BIRD,), True, "nest\0.png", "Ada")
LOST = PairedComparison(50.0, 49.0, -3.0, 1.0, 0.7)
WON = PairedComparison(50.0, 20.0, -40.0, -20.0, 1.0)


def add_run(store: ProjectStore, project: Project) -> Run:
    return store.runs.add_run(project, {"tasks": ["<OD>"], "steps": 2}, "runs/x", "d" * 64, 6, 2, "Ada")


def add_model(store: ProjectStore, project: Project, task: str = "<OD>") -> ModelVersion:
    """Adds the model of a finished run."""
    run = add_run(store, project)
    store.runs.change_state(run, ExecutionState.RUNNING, (ExecutionState.QUEUED,))
    assert store.runs.finish_run(project, run, {"best": 20.0}, "5" * 64, [task])
    return store.models.list_models(project)[-1]


def add_backtest(
    store: ProjectStore, project: Project, challenger: ModelVersion, comparison: PairedComparison, images: int = 10
) -> int:
    """Adds a finished backtest against the champion and returns its ID."""
    champion_id = store.promotions.find_champion(project, challenger.task)
    backtest = store.backtests.add_backtest(project, challenger, champion_id, 0, "Ada")
    counts = [ImageCounts(f"{number:064}", (1, 0, 0, 0, 0, 2), (0,) * 6) for number in range(images)]
    store.backtests.end_backtest(backtest, ExecutionState.DONE, "", "d" * 64, counts, comparison)
    return backtest.id
