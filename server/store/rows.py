"""Rows of the registry's tables as records."""

import json
from typing import Any

from pydantic import TypeAdapter

from server.projects.child import ADAPTER
from server.projects.combinations import Combination
from server.store.project_records import Backtest, Figures, Model, Promotion, Run, Seen, State

COMBINED: TypeAdapter[Combination | None] = TypeAdapter(Combination | None)


def run_of(r: Any) -> Run:
    return Run(
        r.id, json.loads(r.config), r.folder, r.data, r.taught, r.held, State(r.state), r.reason, json.loads(r.metrics),
        r.author, r.created, r.started, r.ended,
    )  # fmt: skip


def model_of(r: Any) -> Model:
    """`run_folder`, `config`, `data` and `metrics` are the run's, where there is one."""
    folder = r.folder if r.run_id is None else f"{r.run_folder}/{ADAPTER}"
    metrics = json.loads(r.metrics or "{}")
    combined = COMBINED.validate_json(r.combined)
    start = json.loads(r.config or "{}").get("start") or None
    return Model(r.id, r.run_id, r.task, r.sha256, folder, r.data or "", metrics, r.created, combined, start)


def backtest_of(r: Any) -> Backtest:
    seen = tuple(Seen(s["picture"], tuple(s["champion"]), tuple(s["challenger"])) for s in json.loads(r.tallies))
    figures = json.loads(r.figures)
    return Backtest(
        r.id, r.challenger_id, r.champion_id, r.data, State(r.state), r.reason, r.author, r.created, r.ended, seen,
        figures and Figures(**figures), json.loads(r.forgetting),
    )  # fmt: skip


def promotion_of(r: Any) -> Promotion:
    return Promotion(
        r.id, r.task, r.model_id, r.backtest_id, bool(r.back), bool(r.forced), r.reason, r.author, r.created
    )
