"""The seedling's recipe: what is taught in which order, and how fast."""

from dataclasses import dataclass, field

from seedling.scenes.batches import TASK_WEIGHTS, WIDE

# What was weakest after `enlarge`: captions, outlines, descriptions.
WEAKEST = TASK_WEIGHTS | {
    "<CAPTION>": 1.6, "<DETAILED_CAPTION>": 1.0, "<DENSE_REGION_CAPTION>": 1.2, "<REGION_PROPOSAL>": 0.4,
    "<CAPTION_TO_PHRASE_GROUNDING>": 1.6, "<REFERRING_EXPRESSION_SEGMENTATION>": 3.0, "<REGION_TO_SEGMENTATION>": 2.2,
    "<OPEN_VOCABULARY_DETECTION>": 2.0, "<REGION_TO_DESCRIPTION>": 1.6,
}  # fmt: skip

# What was weakest after `sharpen`: short captions, what expressions refer to.
SHORT = WEAKEST | {"<CAPTION>": 2.6, "<DETAILED_CAPTION>": 1.3, "<REFERRING_EXPRESSION_SEGMENTATION>": 3.4}


@dataclass(frozen=True, slots=True)
class Stage:
    """`prompts`: questions a picture (0: dense targets alone). `sigma`: in bins, from the start to two thirds of the
    stage. `dense` and `text`: the weights of the dense heads and of the answers' words; `classes`: that of what a cell
    shows, among the dense. `reading` scales how often words are asked to be read, and the letters' weight.
    `cooldown`: the share of steps with a falling rate. `side`: pixels of a picture's side: small ones are cheaper.
    `shares`: how often each task is asked; `wide`: the share of wide pictures."""

    name: str
    steps: int
    pictures: int = 16
    prompts: int = 0
    rate: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.0
    sigma: tuple[float, float] = (10.0, 10.0)
    dense: float = 1.0
    classes: float = 1.0
    text: float = 1.0
    reading: float = 1.0
    objects: tuple[int, int] = (1, 4)
    words: tuple[int, int] = (1, 2)
    side: int = 192
    task_weights: dict[str, float] = field(default_factory=TASK_WEIGHTS.copy)
    wide: float = WIDE

    def rate_at(self, step: int) -> float:
        """The learning rate of the stage's own `step`, 0 … steps - 1."""
        left = (self.steps - step) / max(self.steps * self.cooldown, 1)
        return self.rate * min(1.0, (step + 1) / max(self.warmup, 1), left)

    def sigma_at(self, step: int) -> float:
        """The width of the locations' targets, in bins; it narrows geometrically."""
        start, end = self.sigma
        return start * (end / start) ** min(1.0, step / (self.steps * 2 / 3))


STAGES = (
    Stage("look", 2000),
    Stage("speak", 800, prompts=5, sigma=(10.0, 5.0), dense=0.3),
    # Spelling is noise that drowns the names until cells know letters.
    Stage("name", 400, prompts=5, warmup=50, sigma=(5.0, 2.5), dense=0.3, text=2.0, reading=0.2),
    # What a cell takes for something else, no decoder can name: back to looking, with one question beside it.
    Stage("see", 1800, prompts=1, warmup=50, sigma=(4.0, 2.5), classes=2.0, reading=0.1, cooldown=0.7),
    Stage("polish", 520, 16, 1, 6e-4, warmup=20, sigma=(2.5, 2.5), classes=2.0, reading=0.1, cooldown=0.9),
    # A page of words a picture, no questions: letters are learnt by their number, and this is the cheapest way to many.
    # Half the pictures a step: as good a gradient for the time, and they fit a CPU's cache.
    Stage("spell", 1400, 8, 0, 1e-3, warmup=100, sigma=(2.5, 2.5), reading=2.0, objects=(0, 3), words=(4, 9)),
    # All of it at once, words a share of the questions that they never had before cells knew letters.
    Stage("settle", 2400, 8, 3, 8e-4, 100, 0.6, (2.5, 2.5), classes=2.0, text=1.5, reading=1.5, words=(1, 3)),
    # Up to six objects, more questions a picture.
    Stage(
        "crowd", 1250, 8, 5, 8e-4, 30, 0.8, (2.5, 2.5), classes=2.0, text=1.5, reading=2.0, objects=(1, 6), words=(1, 3)
    ),
    # More questions, and a longer way down: what the encoder was not told before, it learns here.
    Stage(
        "point", 2000, 8, 6, 8e-4, 50, 0.7, (2.5, 2.5), classes=2.0, text=1.5, reading=2.0, objects=(1, 6), words=(1, 3)
    ),
    # The decoder looks at what it is speaking of.
    Stage(
        "align", 1700, 8, 6, 8e-4, 50, 0.7, (2.5, 2.5), classes=2.0, text=1.5, reading=2.0, objects=(1, 6), words=(1, 3)
    ),
    # Cells of a finer grid: letters are narrower than a cell, and so is much of what is small.
    Stage(
        "enlarge", 3100, 8, 6, 8e-4, 150, 0.7, (2.5, 2.5), classes=2.0, text=1.5, reading=2.0, objects=(1, 6),
        words=(1, 3), side=256,
    ),
    # Once more, with what is weakest asked more.
    Stage(
        "refine", 2700, 8, 6, 6e-4, 150, 0.75, (2.5, 2.0), classes=2.0, text=1.5, reading=2.0, objects=(1, 6),
        words=(1, 3), side=256, task_weights=WEAKEST, wide=0.2,
    ),
    # The same, with colours taught where they are seen, halfway up the tower.
    Stage(
        "tint", 2400, 8, 6, 6e-4, 100, 0.75, (2.0, 2.0), classes=2.0, text=1.5, reading=2.5, objects=(1, 6),
        words=(1, 3), side=256, task_weights=WEAKEST, wide=0.3,
    ),
    # A finer grid again, and a deeper tower (`blueprint.grow`): for words, colours, what is narrow in wide pictures.
    Stage(
        "sharpen", 2000, 8, 5, 8e-4, 100, 0.8, (2.0, 2.0), classes=2.0, text=1.5, reading=2.5, objects=(1, 6),
        words=(1, 3), side=320, task_weights=WEAKEST, wide=0.3,
    ),
    # Scenes side by side on wide pictures, captions in an order that wavers.
    Stage(
        "finish", 1500, 8, 5, 6e-4, 60, 0.8, (2.0, 2.0), classes=2.0, text=1.5, reading=2.5, objects=(1, 6),
        words=(1, 3), side=320, task_weights=SHORT, wide=0.36,
    ),
)  # fmt: skip
