"""What the resource of projects gives."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from labels.label_kind import LabelKind
from prompts.annotations import Annotation
from server.api.job_schemas import PictureRow, picture_row
from server.projects.review_queue import ReviewCandidate
from server.store.projects.ensembles import EnsembleDefinition
from server.store.projects.records import Backtest, Correction, ModelVersion, Project, Promotion, Run, RunState

KINDS = ("missed", "wrong_class", "wrong_box", "misread", "made_up")


class PictureCount(BaseModel):
    pictures: int


class ProjectRow(BaseModel):
    """A project."""

    id: int
    name: str
    base: str = Field(description="SHA-256 of the model's weights that its adapters stand on.")
    served: bool = Field(description="Whether the server has these weights.")
    tasks: list[str]
    held_share: float
    pictures: int = Field(description="How many are corrected.")
    created: datetime


class ProjectList(BaseModel):
    projects: list[ProjectRow]
    next: int | None = Field(description="`after` of the next page; null: there is no more.")


class CorrectionRow(BaseModel):
    """What a person said of a picture."""

    id: int
    picture: str = Field(description="SHA-256 of its file.")
    kind: LabelKind
    version: int = Field(description="The highest of a picture and kind counts.")
    held: bool = Field(description="Whether the picture is held out, and never taught.")
    name: str
    width: int
    height: int
    complete: bool
    annotations: list[Annotation]
    author: str
    created: datetime


class Corrections(BaseModel):
    corrections: list[CorrectionRow]
    next: int | None = Field(description="`after` of the next page; null: there is no more.")


class NextPicture(PictureRow):
    """A picture that a person should look at, with its labels as they stand."""

    doubt: float = Field(description="How many of its labels are expected to be wrong, by their scores.")
    held: bool = Field(description="Whether it would be held out, and never taught.")


class NextPictures(BaseModel):
    pictures: list[NextPicture] = Field(description="Those that tell most first.")
    left: int = Field(description="How many labelled pictures of the job are not corrected, these included.")
    waiting: int = Field(description="How many pictures the job has yet to label.")


class RunRow(BaseModel):
    """A fine-tune."""

    id: int
    state: RunState = Field(
        description="A failed one can be cancelled, and resumed unless it made models, which stay in either case."
    )
    reason: str = Field(description="Why it failed; empty once it is resumed or cancelled.")
    start: int | None = Field(description="The model that it goes on from; null: the base.")
    config: dict[str, Any] = Field(description="All settings.")
    data: str = Field(description="The hash of pictures' names, sizes and labels.")
    taught: int = Field(description="How many pictures.")
    held: int = Field(description="How many pictures judge it.")
    progress: dict[str, Any] | None = Field(description="The newest line of its log: step, losses, held-out metric.")
    metrics: dict[str, Any] = Field(
        description="`before` and `best` of the metric, at `best_step`, on taught pictures that are set apart for it; "
        "null where there are too few to set any apart."
    )
    models: list[int] = Field(
        description="What it made, one a task; where its loss came to no number, what was good until then."
    )
    author: str
    created: datetime
    started: datetime | None
    ended: datetime | None


class Runs(BaseModel):
    runs: list[RunRow]
    next: int | None = Field(description="`after` of the next page; null: there is no more.")


class ModelRow(BaseModel):
    """A micro-model for one task: the adapter that a run made, or several models combined."""

    id: int
    run: int | None = Field(description="null: it is combined.")
    start: int | None = Field(description="The model that its run went on from; null: the base.")
    combined: EnsembleDefinition | None = Field(description="Of what, and how.")
    task: str
    sha256: str = Field(description="Of the adapter's weights; where several answer together, of all there is to them.")
    data: str = Field(description="The run's: the hash of what it was made from; else empty.")
    metrics: dict[str, Any] = Field(description="The run's.")
    answers: bool = Field(description="Whether it is the champion.")
    created: datetime


class PromotionRow(BaseModel):
    """From then on `model` answered for the task; null: the base alone."""

    id: int
    task: str
    model: int | None
    backtest: int | None = Field(description="By which it was earned.")
    rollback: bool
    forced: bool
    reason: str
    author: str
    created: datetime


class Models(BaseModel):
    """The registry, and its history."""

    models: list[ModelRow]
    promotions: list[PromotionRow]


class FiguresRow(BaseModel):
    """Corrections per 100 labels, and the difference of challenger and champion with its 95 % interval."""

    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    better: float = Field(description="How likely the challenger is the better one.")
    won: bool = Field(description="The interval lies wholly below 0, on ten pictures or more: it may be promoted.")


class PictureTally(BaseModel):
    """One held-out picture: corrections by kind, and labels, of either side."""

    picture: str
    champion: dict[str, int]
    challenger: dict[str, int]


class BacktestRow(BaseModel):
    """A model against who answered for its task then; `champion` null: the base alone."""

    id: int
    state: RunState
    reason: str = Field(description="Why it failed.")
    challenger: int
    champion: int | None
    pictures: int = Field(description="How many held-out ones both answered.")
    data: str = Field(description="The hash of those and their labels.")
    figures: FiguresRow | None
    forgetting: dict[str, Any] = Field(
        description="Unless `probe` was 0: `lost`, by task and in the `mean`, of the base's own world; `what` that is, "
        "and by how many `scenes` or `pictures`; or the `reason` why nothing tells it. Until it is done, and where it "
        "failed: the `probe` that was asked for."
    )
    author: str
    created: datetime
    ended: datetime | None


class BacktestDetails(BacktestRow):
    """With each picture."""

    tallies: list[PictureTally]


class Backtests(BaseModel):
    backtests: list[BacktestRow]
    next: int | None = Field(description="`after` of the next page; null: there is no more.")


def project_row(project: Project, served: str, pictures: int) -> ProjectRow:
    return ProjectRow(
        id=project.id, name=project.name, base=project.base_sha256, served=project.base_sha256 == served, tasks=list(project.tasks),
        held_share=project.holdout_share, pictures=pictures, created=_moment(project.created),
    )  # fmt: skip


def correction_row(correction: Correction, held: bool) -> CorrectionRow:
    said = correction.content
    return CorrectionRow(
        id=correction.id, picture=said.image_sha256, kind=said.label_kind, version=correction.version, held=held, name=said.image_name,
        width=said.width, height=said.height, complete=said.complete, annotations=list(said.annotations),
        author=said.author, created=_moment(correction.created),
    )  # fmt: skip


def next_picture(candidate: ReviewCandidate, held: bool) -> NextPicture:
    shown = picture_row(candidate.position, candidate.image)
    return NextPicture(**dict(shown), doubt=candidate.uncertainty, held=held)


def run_row(run: Run, progress: dict[str, Any] | None, models: list[int]) -> RunRow:
    return RunRow(
        id=run.id, state=run.state, reason=run.reason, start=run.initial_model_id, config=run.config, data=run.dataset_hash,
        taught=run.train_images, held=run.holdout_images, progress=progress, metrics=run.metrics, models=models,
        author=run.author, created=_moment(run.created), started=_maybe(run.started), ended=_maybe(run.ended),
    )  # fmt: skip


def model_row(model: ModelVersion, answers: bool) -> ModelRow:
    return ModelRow(
        id=model.id, run=model.run_id, start=model.initial_model_id, combined=model.ensemble, task=model.task, sha256=model.sha256,
        data=model.dataset_hash, metrics=model.metrics, answers=answers, created=_moment(model.created),
    )  # fmt: skip


def promotion_row(promotion: Promotion) -> PromotionRow:
    return PromotionRow(
        id=promotion.id, task=promotion.task, model=promotion.model_id, backtest=promotion.backtest_id,
        rollback=promotion.is_rollback, forced=promotion.forced, reason=promotion.reason, author=promotion.author,
        created=_moment(promotion.created),
    )  # fmt: skip


def backtest_row(test: Backtest) -> BacktestRow:
    return BacktestRow(**_about(test))


def backtest_details(test: Backtest) -> BacktestDetails:
    names = (*KINDS, "labels")
    tallies = [
        PictureTally(
            picture=seen.image_sha256,
            champion=dict(zip(names, seen.champion, strict=True)),
            challenger=dict(zip(names, seen.challenger, strict=True)),
        )
        for seen in test.image_counts
    ]
    return BacktestDetails(**_about(test), tallies=tallies)


def _about(test: Backtest) -> dict[str, Any]:
    figures = test.comparison and FiguresRow(
        champion=test.comparison.champion, challenger=test.comparison.challenger,
        difference=test.comparison.challenger - test.comparison.champion, low=test.comparison.low, high=test.comparison.high,
        better=test.comparison.probability_better, won=test.won,
    )  # fmt: skip
    return {
        "id": test.id, "state": test.state, "reason": test.reason, "challenger": test.challenger_id,
        "champion": test.champion_id, "pictures": len(test.image_counts), "data": test.dataset_hash, "figures": figures,
        "forgetting": test.forgetting, "author": test.author, "created": _moment(test.created),
        "ended": _maybe(test.ended),
    }  # fmt: skip


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _maybe(seconds: float | None) -> datetime | None:
    return None if seconds is None else _moment(seconds)
