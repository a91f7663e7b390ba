import pytest
from transformers import PreTrainedTokenizerBase

from seedling import architecture
from seedling.scenes.drawing import draw_scene
from seedling.scenes.scene import Scene
from tests.finetune.conftest import one_thread, own_precision  # noqa: F401


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """The seedling's tokenizer."""
    return architecture.build_tokenizer()


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Scenes of every kind: with and without objects and words, crowded and sparse."""
    counts = [((0, 0), (0, 0)), ((0, 0), (1, 2)), ((1, 4), (0, 0)), *[((1, 4), (0, 2))] * 3]
    return [draw_scene(seed, objects=counts[seed % 6][0], words=counts[seed % 6][1]) for seed in range(60)]
