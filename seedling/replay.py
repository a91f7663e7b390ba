"""The seedling's own replay: scenes are drawn like those of its last training stage."""

from functools import lru_cache

import numpy as np

from finetune.tuning.replay import POOL_SIZE, REPLAY_SEED, ReplayedImage, ReplaySource
from seedling.scenes.batches import NO_WORDS_SHARE, TRAINING_SEEDS, choose_samples
from seedling.scenes.drawing import draw_scene
from seedling.scenes.scene import Scene
from seedling.stages import STAGES
from server.engine.checkpoints.sources import SEEDLING

_FIRST_SCENE = 1_000_000 * TRAINING_SEEDS  # training seeds that no stage of the seedling uses


class SceneReplay:
    """Replays drawn scenes of the usual shapes with all 15 tasks, as often as in the last stage."""

    def load(self, number: int, max_samples: int) -> ReplayedImage:
        """Returns a scene and some of its samples; the objects of an answer are nearly in order from left to right."""
        stage, rng = STAGES[-1], np.random.default_rng((REPLAY_SEED, number))
        scene = _draw_scene(_FIRST_SCENE + number % POOL_SIZE).jitter_order(rng)
        return scene.image, choose_samples(scene, max_samples, rng, stage.ocr_weight, stage.task_weights)


def find_replay(base: str) -> ReplaySource | None:
    """Returns the replay source of a base without a dataset: drawn scenes for the seedling, None for other models."""
    return SceneReplay() if base == SEEDLING else None


@lru_cache(POOL_SIZE)
def _draw_scene(seed: int) -> Scene:
    """Draws a scene, once in each process: drawing takes half the time of a batch."""
    words = (0, 0) if np.random.default_rng((seed, 1)).random() < NO_WORDS_SHARE else STAGES[-1].words
    return draw_scene(seed, objects=STAGES[-1].objects, words=words)
