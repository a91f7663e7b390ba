"""A model examined: all its answers to a dataset's questions, and what they are worth."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from finetune.datasets import samples
from finetune.evaluation import captions
from finetune.evaluation.corrections import CATEGORY, Tally, corrections, labels, tally
from finetune.evaluation.matching import named
from finetune.evaluation.metrics import CAPTIONS, figures, order, scores
from finetune.evaluation.predictions import Answered, ask
from finetune.evaluation.reliability import Scores, reliability
from labels.dataset import Example, Unusable
from labels.sample import Question
from prompts.tasks import Gives, Task
from server.engine.engine import Engine


class Marks:
    """The answers to one task's questions, and their figures."""

    def __init__(self, task: Task, answers: Sequence[Answered]) -> None:
        self.task, self.answers = task, answers

    @cached_property
    def figures(self) -> Mapping[str, float]:
        """Those that the task's field reports, by name."""
        return figures(self.task, self.answers)

    @cached_property
    def tallies(self) -> Mapping[str, Tally]:
        """The corrections of each picture, by its name, in the order asked: what a paired bootstrap takes."""
        found: dict[str, Tally] = {}
        for one in self.answers:
            own = tally(one.found, one.question.answer, self.task)
            found[one.example.name] = found.get(one.example.name, Tally()) + own
        return found

    @cached_property
    def corrections(self) -> Tally:
        """All pictures' together."""
        return sum(self.tallies.values(), Tally())

    @cached_property
    def classes(self) -> Mapping[str, Tally]:
        """The corrections by class, most first; empty where answers are no classes."""
        if self.task.gives not in (Gives.BOXES, Gives.PHRASES, Gives.ANY) and self.task.token != CATEGORY:
            return {}
        found: dict[str, Tally] = {}
        for one in self.answers:
            todo = corrections(one.found, one.question.answer, self.task)
            for label in {named(note.label) for note in (*one.found, *one.question.answer)}:
                true = [note for note in one.question.answer if named(note.label) == label]
                own = Tally.of([c for c in todo if named(c.label) == label], labels(true, self.task))
                found[label] = found.get(label, Tally()) + own
        return dict(sorted(found.items(), key=lambda item: (-item[1].corrections, -item[1].labels, item[0])))

    @cached_property
    def scores(self) -> Scores:
        """Each answer's score, and whether it stays as it is."""
        return scores(self.task, self.answers)


@dataclass(frozen=True)
class Report:
    """What a model, or an adapter on it, is worth on a dataset. `sha256`, `adapter_sha256`: of the weights; `tasks`: by
    token, in the order of the table; `trouble`: of what could not be asked."""

    model: str
    sha256: str
    adapter: str | None
    adapter_sha256: str | None
    pictures: int
    tasks: Mapping[str, Marks]
    trouble: Sequence[Unusable] = ()

    @property
    def notes(self) -> list[str]:
        """Figures that are left out, and how to have them."""
        told = [captions.NEEDED] if self.tasks.keys() & set(CAPTIONS) and not captions.installed() else []
        looked = self.tasks.get("<OPEN_VOCABULARY_DETECTION>")
        if looked and all(one.question.answer for one in looked.answers):
            told.append(
                f"{looked.task.token} was asked for nothing that is absent, so how much it makes up is not told; "
                "pictures that are known to lack a label would tell"
            )
        return told

    def as_json(self) -> dict[str, Any]:
        """All figures, without the answers."""
        return {
            "model": self.model,
            "model_sha256": self.sha256,
            "adapter": self.adapter,
            "adapter_sha256": self.adapter_sha256,
            "pictures": self.pictures,
            "tasks": {token: _as_json(marks) for token, marks in self.tasks.items()},
            "notes": self.notes,
            "trouble": [str(one) for one in self.trouble],
        }

    def save(self, path: Path) -> None:
        """Writes the figures as JSON. Raises OSError."""
        path.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def questions(
    examples: Sequence[Example], tasks: Iterable[str] | None = None, *, labels: Sequence[str] = (), seed: int = 0
) -> list[tuple[Example, list[Question]]]:
    """What the examples can be asked of `tasks` (tokens), None for all.

    `labels`: the dataset's, to ask for what is not there. What a task leaves open (which region, what is looked for) is
    decided by `seed` and the picture's place alone, so that two models are asked the same.
    """
    wanted = sorted({t for one in examples for t in samples.teachable(one)} if tasks is None else set(tasks), key=order)
    return [
        (example, samples.questions(example, wanted, labels=labels, rng=np.random.default_rng((seed, i))))
        for i, example in enumerate(examples)
    ]


def evaluate(
    engine: Engine,
    examples: Sequence[Example],
    tasks: Iterable[str] | None = None,
    *,
    adapter: str | None = None,
    labels: Sequence[str] = (),
    seed: int = 0,
    told: Callable[[], None] = lambda: None,
) -> Report:
    """Asks the engine `questions` and judges the answers.

    `adapter`: the name of one that is loaded. `told` hears of each picture that is done. Raises what the engine does.
    """
    return examine(engine, questions(examples, tasks, labels=labels, seed=seed), adapter=adapter, told=told)


def examine(
    engine: Engine,
    questions: Iterable[tuple[Example, Sequence[Question]]],
    *,
    adapter: str | None = None,
    told: Callable[[], None] = lambda: None,
) -> Report:
    """`evaluate` of questions that are known already, as the suites have them."""
    by_task: dict[Task, list[Answered]] = {}
    trouble: list[Unusable] = []
    pictures = 0
    for asked in ask(engine, questions, adapter):
        pictures += 1
        trouble += asked.trouble
        for one in asked.answers:
            by_task.setdefault(one.question.task, []).append(one)
        told()
    ranked = sorted(by_task, key=lambda task: order(task.token))
    hashes = {loaded.name: loaded.sha256 for loaded in engine.adapters()}
    return Report(
        model=engine.checkpoint.name,
        sha256=engine.checkpoint.sha256,
        adapter=adapter,
        adapter_sha256=hashes.get(adapter) if adapter else None,
        pictures=pictures,
        tasks={task.token: Marks(task, by_task[task]) for task in ranked},
        trouble=trouble,
    )


def _as_json(marks: Marks) -> dict[str, Any]:
    todo = marks.corrections
    rate = {"per_100_labels": todo.per_hundred} if todo.labels else {}  # JSON has no NaN
    return {
        "questions": len(marks.answers),
        "corrections": {**rate, "all": todo.corrections, **asdict(todo)},
        "figures": dict(marks.figures),
        "classes": {label: {"all": own.corrections, **asdict(own)} for label, own in marks.classes.items()},
        "reliability": [asdict(one) for one in reliability(marks.scores)],
    }
