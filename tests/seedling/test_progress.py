"""The snapshots of a run are measured and plotted."""

import json
from pathlib import Path

import pytest
import typer
from matplotlib.figure import Figure
from PIL import Image

from seedling import progress
from server.engine.checkpoints.loading import load_checkpoint


def test_repeated_steps_count_once(tmp_path: Path) -> None:
    """A run that resumed from its last state repeated some steps; only the last time counts."""
    lines = [(50, 1.2), (100, 1.2), (150, 2.4), (100, 1.2), (150, 1.2)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": step, "seconds": pace}) + "\n" for step, pace in lines))
    assert progress.read_minutes(log) == pytest.approx({50: 1.0, 100: 2.0, 150: 3.0})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / progress.SNAPSHOTS).mkdir()
    (tmp_path / progress.SNAPSHOTS / "100").symlink_to(load_checkpoint().folder)
    (tmp_path / "log.jsonl").write_text('{"step": 50, "seconds": 1.2}\n{"step": 100, "seconds": 1.2}\n')
    return tmp_path


def test_snapshots_are_measured_once_and_plotted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = progress.measure_snapshots(run, 1)
    assert (row["step"], row["minutes"], row["scenes"]) == (100, 2.0, 1)
    assert 0 <= row["metrics"]["<OD> mAP@50"] <= 1
    monkeypatch.setattr(progress, "measure", lambda *_: pytest.fail("measured again"))
    progress.main(run, scenes=1)
    with Image.open(run / "curve.png") as image:
        assert image.width > image.height > 300


def test_a_folder_without_snapshots_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="has no snapshots"):
        progress.main(tmp_path)


def test_missing_metrics_are_left_out_of_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves: list[tuple[str, list[float]]] = []

    def record(figure: Figure, *_: object, **__: object) -> None:
        for axes in figure.axes:
            curves.extend((str(line.get_label()), [float(y) for y in line.get_ydata()]) for line in axes.lines)

    monkeypatch.setattr(Figure, "savefig", record)
    rows = [
        {"minutes": m, "metrics": {"<OD> mAP@50": v, "<REGION_TO_OCR> exact match": v / 2}}
        for m, v in ((0, 0.5), (9, 0.75))
    ]
    progress.plot_curves(rows, tmp_path / "curve.png")
    assert curves == [("detection, mAP@50", [0.5, 0.75]), ("region → text, whole words", [0.25, 0.375])]
