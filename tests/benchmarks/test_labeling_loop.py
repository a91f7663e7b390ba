"""The labeling loop goes on from the rounds that it kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.labeling_loop import Loop
from finetune.tuning.config import TuneConfig
from server.engine.checkpoints import loading
from server.engine.checkpoints.weights import sha256

PICTURES = {"pool": 8, "backtest": 1, "test": 1}


def kept(out: Path) -> list[dict[str, Any]]:
    """A folder in which the base was measured, and one round run."""
    rows = [
        {"corrected": 0, "chosen": [], "probe": {"<OD>": 0.9}, "promoted": False, "steps": 0},
        {"corrected": 2, "chosen": [200_001], "probe": {"<OD>": 0.8}, "promoted": True, "steps": 1, "round": 1},
    ]
    (out / "random").mkdir()
    settings = TuneConfig().model_dump(mode="json")
    about = {"base": sha256(loading.locate("seedling")), "settings": settings, "pictures": PICTURES}
    (out / "random" / "rows.json").write_text(json.dumps({**about, "rows": rows}))
    return rows


def test_rounds_that_were_kept_are_not_run_again(tmp_path: Path) -> None:
    rows = kept(tmp_path)
    loop = Loop(tmp_path, "random", TuneConfig(), PICTURES)
    assert loop.run([2], [1]) == rows
    assert loop.champion.adapter == tmp_path / "random" / "round-1" / "adapter"
    loop.chosen += [200_007]  # what is chosen next is of the next round alone
    assert loop.rows == rows


def test_other_rounds_are_not_mixed_with_them(tmp_path: Path) -> None:
    kept(tmp_path)
    with pytest.raises(typer.BadParameter, match="is of other rounds"):
        Loop(tmp_path, "random", TuneConfig(), PICTURES).run([3], [1])
    with pytest.raises(typer.BadParameter, match="is of other rounds"):
        Loop(tmp_path, "random", TuneConfig(), PICTURES).run([2], [5])


def test_figures_of_other_settings_weights_or_pictures_are_not_mixed_with_them(tmp_path: Path) -> None:
    kept(tmp_path)
    with pytest.raises(typer.BadParameter, match="is of other weights, settings or pictures"):
        Loop(tmp_path, "random", TuneConfig(rate=0.5), PICTURES).run([2], [1])
    with pytest.raises(typer.BadParameter, match="is of other weights, settings or pictures"):
        Loop(tmp_path, "random", TuneConfig(), {**PICTURES, "test": 2}).run([2], [1])
