"""The stages of pretraining: what is trained in which order, and at which learning rate."""

from dataclasses import dataclass, field

from finetune.datasets.task_weights import TASK_WEIGHTS
from seedling.scenes.batches import WIDE_SHARE

# More of what was weakest after `size-256`: captions, outlines, descriptions.
WEAK_TASK_WEIGHTS = TASK_WEIGHTS | {
    "<CAPTION>": 1.6, "<DETAILED_CAPTION>": 1.0, "<DENSE_REGION_CAPTION>": 1.2, "<REGION_PROPOSAL>": 0.4,
    "<CAPTION_TO_PHRASE_GROUNDING>": 1.6, "<REFERRING_EXPRESSION_SEGMENTATION>": 3.0, "<REGION_TO_SEGMENTATION>": 2.2,
    "<OPEN_VOCABULARY_DETECTION>": 2.0, "<REGION_TO_DESCRIPTION>": 1.6,
}  # fmt: skip

# More of what was weakest after `size-320`: short captions, referring expressions.
SHORT_TEXT_WEIGHTS = WEAK_TASK_WEIGHTS | {
    "<CAPTION>": 2.6, "<DETAILED_CAPTION>": 1.3, "<REFERRING_EXPRESSION_SEGMENTATION>": 3.4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stage:
    """Settings of one stage."""

    name: str
    steps: int
    images: int = 16
    """Per step."""
    prompts: int = 0
    """Per image; 0 trains the dense heads only."""
    learning_rate: float = 1e-3
    warmup: int = 200
    """Steps."""
    cooldown: float = 0.0
    """Share of the steps in which the learning rate falls linearly to 0."""
    sigma: tuple[float, float] = (10.0, 10.0)
    """Width of the location targets in bins, at the start and after two thirds of the steps."""
    dense_weight: float = 1.0
    """Weight of the dense losses, when there are prompts."""
    class_weight: float = 1.0
    """Weight of the cells' classes among the dense losses."""
    text_weight: float = 1.0
    """Weight of the words of answers."""
    ocr_weight: float = 1.0
    """Factor on the weights of the OCR tasks and of the dense letter losses."""
    objects: tuple[int, int] = (1, 4)
    words: tuple[int, int] = (1, 2)
    side: int = 192
    """Pixels per side of an image; small ones are cheaper."""
    task_weights: dict[str, float] = field(default_factory=TASK_WEIGHTS.copy)
    wide_share: float = WIDE_SHARE

    def compute_learning_rate(self, step: int) -> float:
        """Returns the learning rate at a step of this stage, 0 … steps - 1."""
        remaining = (self.steps - step) / max(self.steps * self.cooldown, 1)
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1), remaining)

    def compute_sigma(self, step: int) -> float:
        """Returns the width of the location targets, in bins; it shrinks geometrically."""
        start, end = self.sigma
        return start * (end / start) ** min(1.0, step / (self.steps * 2 / 3))


STAGES = (
    Stage("dense", 2000),
    Stage("answers", 800, prompts=5, sigma=(10.0, 5.0), dense_weight=0.3),
    # Spelling is noise that hides object names until cells know letters.
    Stage(
        "names", 400, prompts=5, warmup=50, sigma=(5.0, 2.5), dense_weight=0.3, text_weight=2.0, ocr_weight=0.2
    ),
    # The decoder cannot name what a cell misclassifies: back to the cells, with one prompt per image.
    Stage(
        "classes", 1800, prompts=1, warmup=50, sigma=(4.0, 2.5), class_weight=2.0, ocr_weight=0.1, cooldown=0.7
    ),
    Stage(
        "classes-cooldown", 520, 16, 1, 6e-4, warmup=20, sigma=(2.5, 2.5), class_weight=2.0, ocr_weight=0.1,
        cooldown=0.9,
    ),
    # A page of words per image, no prompts: the cheapest way to many letters. Half the images per step: the gradient is
    # as good for the time, and they fit into a CPU's cache.
    Stage("letters", 1400, 8, 0, 1e-3, warmup=100, sigma=(2.5, 2.5), ocr_weight=2.0, objects=(0, 3), words=(4, 9)),
    # All tasks at once, with more OCR than before cells knew letters.
    Stage(
        "all-tasks", 2400, 8, 3, 8e-4, 100, 0.6, (2.5, 2.5), class_weight=2.0, text_weight=1.5, ocr_weight=1.5,
        words=(1, 3),
    ),
    # Up to six objects, more prompts per image.
    Stage(
        "six-objects", 1250, 8, 5, 8e-4, 30, 0.8, (2.5, 2.5), class_weight=2.0, text_weight=1.5, ocr_weight=2.0,
        objects=(1, 6), words=(1, 3),
    ),
    # More prompts and a longer cooldown; the encoder learns what the prompt asks about.
    Stage(
        "relevance", 2000, 8, 6, 8e-4, 50, 0.7, (2.5, 2.5), class_weight=2.0, text_weight=1.5, ocr_weight=2.0,
        objects=(1, 6), words=(1, 3),
    ),
    # The decoder learns to attend to what it names.
    Stage(
        "attention", 1700, 8, 6, 8e-4, 50, 0.7, (2.5, 2.5), class_weight=2.0, text_weight=1.5, ocr_weight=2.0,
        objects=(1, 6), words=(1, 3),
    ),
    # A finer grid: letters are narrower than a cell, and so are many small objects.
    Stage(
        "size-256", 3100, 8, 6, 8e-4, 150, 0.7, (2.5, 2.5), class_weight=2.0, text_weight=1.5, ocr_weight=2.0,
        objects=(1, 6), words=(1, 3), side=256,
    ),
    # The same, with more of what is weakest.
    Stage(
        "reweighted", 2700, 8, 6, 6e-4, 150, 0.75, (2.5, 2.0), class_weight=2.0, text_weight=1.5, ocr_weight=2.0,
        objects=(1, 6), words=(1, 3), side=256, task_weights=WEAK_TASK_WEIGHTS, wide_share=0.2,
    ),
    # The same, with colors trained halfway through the vision encoder, where they are visible.
    Stage(
        "early-colors", 2400, 8, 6, 6e-4, 100, 0.75, (2.0, 2.0), class_weight=2.0, text_weight=1.5, ocr_weight=2.5,
        objects=(1, 6), words=(1, 3), side=256, task_weights=WEAK_TASK_WEIGHTS, wide_share=0.3,
    ),
    # A finer grid again and a deeper vision encoder (`resizing.extend_architecture`): for words, colors, and narrow
    # objects in wide images.
    Stage(
        "size-320", 2000, 8, 5, 8e-4, 100, 0.8, (2.0, 2.0), class_weight=2.0, text_weight=1.5, ocr_weight=2.5,
        objects=(1, 6), words=(1, 3), side=320, task_weights=WEAK_TASK_WEIGHTS, wide_share=0.3,
    ),
    # Scenes side by side in wide images, captions in a jittered order.
    Stage(
        "caption-order", 1500, 8, 5, 6e-4, 60, 0.8, (2.0, 2.0), class_weight=2.0, text_weight=1.5, ocr_weight=2.5,
        objects=(1, 6), words=(1, 3), side=320, task_weights=SHORT_TEXT_WEIGHTS, wide_share=0.36,
    ),
)  # fmt: skip
