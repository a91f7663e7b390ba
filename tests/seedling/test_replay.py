"""The drawn scenes that are replayed for the seedling."""

from prompts.annotations import Box
from seedling.replay import SceneReplay, find_replay


def test_only_the_seedling_replays_scenes() -> None:
    assert isinstance(find_replay("seedling"), SceneReplay)
    assert find_replay("another") is None


def test_objects_are_nearly_in_order_from_left_to_right() -> None:
    samples = [sample for number in range(12) for sample in SceneReplay().load(number, 12)[1]]
    detections = [sample for sample in samples if sample.task.token in ("<OD>", "<DENSE_REGION_CAPTION>")]
    lefts = [[shape.box[0] for shape in sample.answer if isinstance(shape, Box)] for sample in detections]
    assert any(order != sorted(order) for order in lefts)  # drawn scenes are sorted
