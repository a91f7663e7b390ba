"""What a class list smaller than what a model knows does to its answers.

`python -m benchmarks.class_lists` writes docs/measurements/class-lists.md. The seedling names the objects of unseen
scenes, half of them with the glyph set that training never uses. A person wants some of its 40 categories: random lists
of each size. The figure is the number of corrections, per 100 wanted objects, until the labels are exactly those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import describe_machine, run_in_thread
from benchmarks.recording import ROOT
from benchmarks.workloads import FIRST_SEED, MAX_ANSWER_TOKENS
from finetune.evaluation.corrections import CorrectionCounts, count_corrections
from prompts.annotations import Annotation, Box
from prompts.class_lists import ClassList
from prompts.parsing import parse_answer
from prompts.tasks import TASKS
from prompts.vocabulary import Vocabulary
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, TRAINING_SETS
from seedling.scenes.labeled_images import to_labeled_image
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.class_lists import hold_class_list
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request, Result

SIZES, LISTS = (20, 10, 5), 3  # of a list, and lists of each size
THRESHOLDS = (0.1, 0.3, 0.5)  # of the probability of a name, below which its labels are dropped
DETECTION = TASKS["<OD>"]
KNOWN = ClassList((*CATEGORIES, "word"), "the seedling")


@dataclass(frozen=True, slots=True)
class NamedObject:
    """A label, and the probability of its name by the model when any name is allowed."""

    annotation: Annotation
    probability: float


def detect(engine: Engine, images: Sequence[PreparedImage], class_list: ClassList | None) -> list[list[NamedObject]]:
    """Returns the objects of each image, with names held to the list."""
    requests = (Request(image, DETECTION, max_new_tokens=MAX_ANSWER_TOKENS, num_beams=1) for image in images)
    names = class_list.names if class_list else ()
    handles = [engine.submit(hold_class_list(request, class_list, names)) for request in requests]
    vocabulary = engine.checkpoint.vocabulary
    return [name_objects(handle.wait(), vocabulary, image.size) for handle, image in zip(handles, images, strict=True)]


def name_objects(result: Result, vocabulary: Vocabulary, size: tuple[int, int]) -> list[NamedObject]:
    """Returns the objects of an answer.

    The score of a label is the mean log probability of its tokens, so that each gets that of the whole name.
    """
    tokens, logprobs = [vocabulary[token] for token in result.tokens], list[float]()
    pairs = zip(tokens, result.logprobs, strict=True)
    for is_name, run in groupby(pairs, key=lambda pair: pair[0].text_bytes is not None):
        own = [logprob for _, logprob in run]
        logprobs += [sum(own) if is_name else 0.0] * len(own)
    answer = parse_answer(DETECTION, tokens, size, logprobs)
    return [NamedObject(annotation, annotation.score or 0.0) for annotation in answer.annotations]


def count(
    found: Sequence[Sequence[NamedObject]], truth: Sequence[Sequence[Box]], wanted: Sequence[str], least: float = 0.0
) -> CorrectionCounts:
    """Returns the corrections of labels with a wanted name whose probability is `least` or more."""
    counts = CorrectionCounts()
    for own, true in zip(found, truth, strict=True):
        kept = [one.annotation for one in own if one.annotation.label in wanted and one.probability >= least]
        counts += count_corrections(kept, [box for box in true if box.label in wanted], DETECTION)
    return counts


def measure_lists(
    engine: Engine, images: Sequence[PreparedImage], truth: Sequence[Sequence[Box]], lists: Sequence[Sequence[str]]
) -> Mapping[str, CorrectionCounts]:
    """Returns the corrections of each way to use the lists, over all of them."""
    free, known = detect(engine, images, None), detect(engine, images, KNOWN)
    counts: dict[str, CorrectionCounts] = {}

    def add(way: str, own: CorrectionCounts) -> None:
        counts[way] = counts.get(way, CorrectionCounts()) + own

    for wanted in lists:
        add("free, other names dropped", count(free, truth, wanted))
        add("held to all 40, other names dropped", count(known, truth, wanted))
        held = detect(engine, images, ClassList(tuple(wanted), "the list"))
        add("held to the list", count(held, truth, wanted))
        for least in THRESHOLDS:
            add(f"held to the list, names below {least:.0%} dropped", count(held, truth, wanted, least))
    return counts


PAGE = """# Class lists

Written by `python -m benchmarks.class_lists` on {machine}.

The seedling names the objects (`<OD>`) of {scenes} scenes, half of them of the art set that it never saw. It knows 40
classes; a person wants some of them: {lists} random lists of each size. The figures are, per 100 wanted objects, the
corrections until the labels are exactly these objects, the objects that are missed, and the labels of nothing wanted.

A model that is held to fewer classes than it knows names everything by one of them: a cat becomes a car. Its own
probability of the name tells some of these labels from the others, but no threshold is as good as letting the model say
what it sees, and dropping the other names. Holding it to all that it knows costs nothing. So the ontology of a recipe
holds a model only together with the model's own class list, and
[drops and counts](../guides/write-a-recipe.md#classes) the other names. A model without a list is free.

{tables}
The same holds for the classes that a project declares and for those of an adapter: a model may always say what it
knows, and [what is outside of the list is left out](../guides/adapters.md#class-lists).
"""


def main(
    scenes: Annotated[int, typer.Option(min=4, help="Scenes with 1 to 6 objects.")] = 100,
    out: Annotated[Path, typer.Option(help="The page.")] = ROOT / "docs/measurements/class-lists.md",
) -> None:
    """Writes the corrections for lists of each size."""
    drawn = [
        draw_scene(FIRST_SEED + i, sets=(HOLDOUT_SET,) if i % 2 else TRAINING_SETS, objects=(1, 6))
        for i in range(scenes)
    ]
    truth = [[each for each in to_labeled_image(one, "").annotations if isinstance(each, Box)] for one in drawn]
    rng = np.random.default_rng(0)
    tables = []
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    with Engine(checkpoint, EngineConfig(max_waiting=scenes)) as engine:
        images = [engine.prepare(scene.image) for scene in drawn]
        for size in SIZES:
            lists = [rng.choice(CATEGORIES, size, replace=False).tolist() for _ in range(LISTS)]
            tables.append(format_table(size, measure_lists(engine, images, truth, lists)))
    out.write_text(
        PAGE.format(machine=describe_machine(), scenes=scenes, lists=LISTS, tables="\n".join(tables)), encoding="utf-8"
    )


def format_table(size: int, counts: Mapping[str, CorrectionCounts]) -> str:
    """Returns the table of lists with `size` classes."""
    labels = next(iter(counts.values())).labels
    lines = [f"## Lists of {size} classes", "", f"{labels} wanted objects.", ""]
    lines += ["| answers | corrections | missed | of nothing wanted |", "|---|---:|---:|---:|"]
    for way, own in counts.items():
        rate = 100 / own.labels
        lines.append(f"| {way} | {own.per_hundred:.1f} | {rate * own.missed:.1f} | {rate * own.false_positive:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
