from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import PreTrainedTokenizerBase

from seedling import architecture
from seedling.scenes.drawing import draw_scene
from seedling.scenes.scene import Scene


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerBase:
    """The seedling's tokenizer."""
    return architecture.build_tokenizer()


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Scenes of every kind: with and without objects and words, crowded and sparse."""
    counts = [((0, 0), (0, 0)), ((0, 0), (1, 2)), ((1, 4), (0, 0)), *[((1, 4), (0, 2))] * 3]
    return [draw_scene(seed, objects=counts[seed % 6][0], words=counts[seed % 6][1]) for seed in range(60)]


@pytest.fixture(scope="module", autouse=True)
def own_precision() -> Iterator[None]:
    """Accelerate keeps the first precision of a process; each test file sets its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One CPU thread, so that sums have one order."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
