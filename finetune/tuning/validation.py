"""How a model of the moment does on held-out pictures, by its answers: corrections per 100 labels."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from finetune.datasets import samples
from finetune.evaluation.corrections import Tally, labels, tally
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from server.engine.engine import Engine
from server.engine.errors import InvalidRequestError
from server.engine.handle import Handle
from server.engine.request import Request

# What a person corrects, the first that can be asked; the other tasks follow from these labels.
MAIN = ("<OD>", "<OCR_WITH_REGION>", "<OCR>", "<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
_SEED = 77  # of what questions leave open: each look asks the same


class Interrupted(Exception):  # noqa: N818
    """Asked to stop before all was answered."""


def main_tasks(examples: Sequence[LabeledImage], wanted: Sequence[str]) -> list[str]:
    """The tasks that tell how many labels a person has to mend: of the wanted ones, those of whole pictures."""
    can = {token for example in examples for token in samples.teachable(example)}
    can &= set(wanted) or can
    main = [token for token in MAIN if token in can]
    return main or sorted(can)


class Judge:
    """Held-out pictures and the questions about them, the same at every look."""

    def __init__(self, examples: Sequence[LabeledImage], labels: Sequence[str], tasks: Sequence[str]) -> None:
        self.examples = examples
        self.questions: list[list[Sample]] = [
            samples.questions(example, tasks, labels=labels, rng=np.random.default_rng((_SEED, i)))
            for i, example in enumerate(examples)
        ]

    @property
    def labels(self) -> int:
        """How many true labels there are to tell by."""
        return sum(labels(q.answer, q.task) for questions in self.questions for q in questions)

    def tallies(
        self, engine: Engine, adapter: str | None = None, *, stop: Callable[[], bool] = lambda: False
    ) -> list[Tally]:
        """Each picture's corrections, as `adapter` (None: the engine's model alone) answers. Raises Interrupted once
        `stop` is true."""
        room = engine.max_waiting // 2  # questions in the engine at a time: others may be asking too
        flying: deque[tuple[Sample, Handle | None]] = deque()
        ends: list[Tally] = []

        def mark() -> None:
            if stop():
                for _, handle in flying:
                    if handle:
                        handle.cancel()
                raise Interrupted
            question, handle = flying.popleft()
            ends.append(tally(handle.wait().annotations, question.answer, question.task) if handle else Tally())

        for example, questions in zip(self.examples, self.questions, strict=True):
            image = engine.prepare(example.open())
            for question in questions:
                asked = Request(
                    image, question.task, question.text, question.region, adapter=adapter, interactive=False
                )
                while len(flying) >= room:
                    mark()
                try:
                    flying.append((question, engine.submit(asked)))
                except InvalidRequestError as error:
                    if error.field != "text":
                        raise
                    flying.append((question, None))  # longer than the model reads: it cannot be taught it either
        while flying:
            mark()
        counts = iter(ends)
        return [sum((next(counts) for _ in questions), Tally()) for questions in self.questions]
