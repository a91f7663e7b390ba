"""Rows of the registry's tables as records."""

import json
from typing import Any

from pydantic import TypeAdapter

from server.projects.fine_tune_process import ADAPTER
from server.store.projects.ensembles import EnsembleDefinition
from server.store.projects.records import (
    Backtest,
    BacktestImage,
    BacktestResult,
    ModelVersion,
    Promotion,
    Run,
    RunState,
)

COMBINED: TypeAdapter[EnsembleDefinition | None] = TypeAdapter(EnsembleDefinition | None)


def run_of(r: Any) -> Run:
    return Run(
        r.id, json.loads(r.config), r.folder, r.dataset_hash, r.train_images, r.holdout_images, RunState(r.state),
        r.reason, json.loads(r.metrics), r.author, r.created, r.started, r.ended,
    )  # fmt: skip


def model_of(r: Any) -> ModelVersion:
    """`run_folder`, `config`, `dataset_hash` and `metrics` are the run's, where there is one."""
    folder = r.folder if r.run_id is None else f"{r.run_folder}/{ADAPTER}"
    metrics = json.loads(r.metrics or "{}")
    combined = COMBINED.validate_json(r.combination)
    start = json.loads(r.config or "{}").get("start") or None
    return ModelVersion(
        r.id, r.run_id, r.task, r.sha256, folder, r.dataset_hash or "", metrics, r.created, combined, start
    )


def backtest_of(r: Any) -> Backtest:
    seen = tuple(
        BacktestImage(s["picture"], tuple(s["champion"]), tuple(s["challenger"])) for s in json.loads(r.image_counts)
    )
    figures = json.loads(r.comparison)
    return Backtest(
        r.id, r.challenger_id, r.champion_id, r.dataset_hash, RunState(r.state), r.reason, r.author, r.created, r.ended,
        seen, figures and BacktestResult(**figures), json.loads(r.forgetting),
    )  # fmt: skip


def promotion_of(r: Any) -> Promotion:
    return Promotion(
        r.id, r.task, r.model_id, r.backtest_id, bool(r.is_rollback), bool(r.forced), r.reason, r.author, r.created
    )
