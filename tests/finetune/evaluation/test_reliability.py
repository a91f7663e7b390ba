"""Expected calibration error and reliability diagrams of calibrated and other scores."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from finetune.evaluation.reliability import bin_scores, compute_ece, plot_reliability


def calibrated(count: int, seed: int = 0) -> list[tuple[float, bool]]:
    """Answers whose scores are their probability of being correct."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 1, count)
    return list(zip(values.tolist(), (rng.random(count) < values).tolist(), strict=True))


def test_calibrated_scores_have_no_error() -> None:
    assert compute_ece(calibrated(20_000)) < 0.02  # random noise


def test_the_error_of_overconfident_scores_is_their_excess() -> None:
    assert compute_ece([(0.9, i < 6) for i in range(10)]) == pytest.approx(0.3)
    assert compute_ece([(0.95, False), (0.05, True)]) == pytest.approx(0.95)


def test_bins_contain_all_answers_and_their_means() -> None:
    bins = bin_scores([(0.0, False), (0.31, True), (0.33, False), (1.0, True)], bins=10)
    assert [(b.low, b.count, b.accuracy) for b in bins] == [(0.0, 1, 0), (0.3, 2, 0.5), (0.9, 1, 1)]
    assert bins[1].score == pytest.approx(0.32)


def test_no_answers_have_no_bins() -> None:
    assert bin_scores([]) == []
    assert math.isnan(compute_ece([]))


def test_the_plot_is_an_image(tmp_path: Path) -> None:
    plot_reliability(tmp_path / "plot.png", {"before": calibrated(300), "after": calibrated(300, 1), "nothing": []})
    with Image.open(tmp_path / "plot.png") as image:
        assert min(image.size) > 400


def test_the_plot_shows_every_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: figures.append(self))
    series = {f"task {i}": calibrated(100, i) for i in range(6)}  # more than there are colors
    plot_reliability(tmp_path / "plot.png", series)
    upper, lower = figures[0].axes
    legend = upper.get_legend()
    assert legend is not None
    assert [text.get_text().partition(":")[0] for text in legend.get_texts()] == list(series)
    drawn = [line for line in upper.lines if line.get_marker() == "o"]
    assert [line.get_ydata().tolist() for line in drawn] == [
        [b.accuracy for b in bin_scores(s)] for s in series.values()
    ]
    assert len(lower.containers) == 6
