"""Forgetting measured by added corrections."""

from finetune.forgetting import compute_added_corrections


def test_added_corrections_are_the_difference_and_its_mean() -> None:
    added = compute_added_corrections({"<OD>": 20.0, "<CAPTION>": 50.0}, {"<OD>": 26.0, "<CAPTION>": 48.0})
    assert added == {"<OD>": 6.0, "<CAPTION>": -2.0, "mean": 2.0}
    assert compute_added_corrections({}, {}) == {"mean": 0.0}
