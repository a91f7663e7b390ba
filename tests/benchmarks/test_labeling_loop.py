"""The labeling loop continues from finished rounds."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.labeling_loop import LabelingLoop
from finetune.tuning.config import TuneConfig
from server.engine.checkpoints.sources import locate_checkpoint
from server.engine.checkpoints.weights import hash_weights

IMAGES = {"pool": 8, "backtest": 1, "test": 1}


def write_rounds(out: Path) -> list[dict[str, Any]]:
    """Writes the results of the base and of one round."""
    rows = [
        {"corrected": 0, "selected": [], "quality": {"<OD>": 0.9}, "promoted": False, "steps": 0},
        {"corrected": 2, "selected": [200_001], "quality": {"<OD>": 0.8}, "promoted": True, "steps": 1, "round": 1},
    ]
    (out / "random").mkdir()
    settings = TuneConfig().model_dump(mode="json")
    identity = {"base": hash_weights(locate_checkpoint("seedling")), "settings": settings, "images": IMAGES}
    (out / "random" / "rows.json").write_text(json.dumps({**identity, "rows": rows}))
    return rows


def test_finished_rounds_are_not_repeated(tmp_path: Path) -> None:
    rows = write_rounds(tmp_path)
    loop = LabelingLoop(tmp_path, "random", TuneConfig(), IMAGES)
    assert loop.run([2], [1]) == rows
    assert loop.champion.adapter == tmp_path / "random" / "round-1" / "adapter"
    loop.selected += [200_007]  # a later selection does not change earlier rows
    assert loop.rows == rows


def test_other_rounds_are_rejected(tmp_path: Path) -> None:
    write_rounds(tmp_path)
    with pytest.raises(typer.BadParameter, match="belongs to other rounds"):
        LabelingLoop(tmp_path, "random", TuneConfig(), IMAGES).run([3], [1])
    with pytest.raises(typer.BadParameter, match="belongs to other rounds"):
        LabelingLoop(tmp_path, "random", TuneConfig(), IMAGES).run([2], [5])


def test_other_settings_weights_or_images_are_rejected(tmp_path: Path) -> None:
    write_rounds(tmp_path)
    with pytest.raises(typer.BadParameter, match="belongs to other weights, settings or images"):
        LabelingLoop(tmp_path, "random", TuneConfig(learning_rate=0.5), IMAGES).run([2], [1])
    with pytest.raises(typer.BadParameter, match="belongs to other weights, settings or images"):
        LabelingLoop(tmp_path, "random", TuneConfig(), {**IMAGES, "test": 2}).run([2], [1])
