"""Schemas of backtests."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path
from pydantic import BaseModel, Field

from server.api.parameters import MAX_ID
from server.api.projects.schemas import EntryId, StrictRequest
from server.api.timestamps import to_datetime
from server.store.projects.records import ExecutionState

if TYPE_CHECKING:
    from server.store.projects.records import Backtest

BacktestId = Annotated[int, Path(ge=1, le=MAX_ID, description="The ID of the backtest.")]
_COUNT_NAMES = ("missed", "wrong_class", "localization_error", "misread", "false_positive", "labels")


class BacktestRequest(StrictRequest):
    """A model to compare with the champion of its task."""

    model: EntryId = Field(description="The ID of the model.")
    forgetting_images: int = Field(
        40,
        ge=0,
        le=200,
        description="The maximum number of images of the forgetting evaluation: scenes for the seedling, otherwise "
        "images of the dataset that its run replayed. 40 scenes take some tens of seconds without a GPU; 0: no "
        "evaluation.",
    )


class BacktestComparison(BaseModel):
    """Corrections per 100 labels of both models, and their difference with its 95 % interval."""

    champion: float
    challenger: float
    difference: float = Field(description="challenger minus champion: negative if the challenger is better.")
    low: float = Field(description="The lower end of the interval.")
    high: float = Field(description="The upper end of the interval.")
    probability_better: float = Field(description="The probability that the challenger is better.")
    won: bool = Field(description="Whether the model can be promoted: the interval is below 0, on at least ten images.")


class BacktestImage(BaseModel):
    """A holdout image: the corrections by kind and the number of `labels`, for both models."""

    image_sha256: str
    champion: dict[str, int]
    challenger: dict[str, int]


class BacktestProgressCounts(BaseModel):
    """How far a running backtest is. An image counts twice: once for the champion and once for the challenger."""

    done: int = Field(description="Images that have been answered.")
    total: int


class BacktestResponse(BaseModel):
    """A model against the champion of that time."""

    id: int
    state: ExecutionState
    reason: str = Field(description="Why it failed.")
    challenger: int
    champion: int | None = Field(description="null: the base model.")
    images: int = Field(description="The number of holdout images that both models answered.")
    progress: BacktestProgressCounts | None = Field(
        description="How far it is, while this server runs it; null before and after."
    )
    dataset_hash: str = Field(description="The hash of these images and their annotations.")
    comparison: BacktestComparison | None
    forgetting: dict[str, Any] = Field(
        description="The result of the forgetting evaluation: what the model has `lost` by task and in the `mean`, "
        "the `metric` in words, on how many `scenes` or `images`; or the `reason` why there is no result. Until the "
        "backtest is done: `forgetting_images` of the request. Empty if there is no evaluation."
    )
    author: str
    created: datetime
    ended: datetime | None


class BacktestDetailsResponse(BacktestResponse):
    """A backtest with the counts of each image."""

    image_counts: list[BacktestImage]


class BacktestListResponse(BaseModel):
    """A page of backtests."""

    backtests: list[BacktestResponse]
    next: int | None = Field(description="`after` of the next page; null on the last page.")


def create_backtest_response(backtest: "Backtest", progress: tuple[int, int] | None = None) -> BacktestResponse:
    """Returns the response for a backtest. `progress`: images done and of how many, while it runs."""
    return BacktestResponse(**_collect_fields(backtest, progress))


def create_backtest_details(backtest: "Backtest", progress: tuple[int, int] | None = None) -> BacktestDetailsResponse:
    """Returns the response for a backtest with the counts of each image. `progress`: as above."""
    images = [
        BacktestImage(
            image_sha256=counts.image_sha256,
            champion=dict(zip(_COUNT_NAMES, counts.champion, strict=True)),
            challenger=dict(zip(_COUNT_NAMES, counts.challenger, strict=True)),
        )
        for counts in backtest.image_counts
    ]
    return BacktestDetailsResponse(**_collect_fields(backtest, progress), image_counts=images)


def _collect_fields(backtest: "Backtest", progress: tuple[int, int] | None) -> dict[str, Any]:
    return {
        "id": backtest.id,
        "state": backtest.state,
        "reason": backtest.reason,
        "challenger": backtest.challenger_id,
        "champion": backtest.champion_id,
        "images": len(backtest.image_counts),
        "progress": BacktestProgressCounts(done=progress[0], total=progress[1]) if progress else None,
        "dataset_hash": backtest.dataset_hash,
        "comparison": _create_comparison(backtest),
        "forgetting": backtest.forgetting,
        "author": backtest.author,
        "created": to_datetime(backtest.created),
        "ended": to_datetime(backtest.ended),
    }


def _create_comparison(backtest: "Backtest") -> BacktestComparison | None:
    if (comparison := backtest.comparison) is None:
        return None
    return BacktestComparison(
        champion=comparison.champion,
        challenger=comparison.challenger,
        difference=comparison.challenger - comparison.champion,
        low=comparison.low,
        high=comparison.high,
        probability_better=comparison.probability_better,
        won=backtest.won,
    )
