"""A run in pictures: what the checkpoint of the moment answers on a dozen unseen scenes."""

from pathlib import Path

import numpy as np

from finetune.datasets.question import Question
from finetune.datasets.scenes.batches import TRAINING_SEEDS
from finetune.datasets.scenes.draw import draw
from finetune.datasets.scenes.questions import ask
from finetune.report import Marks
from prompts.tasks import TASKS
from server import drawing
from server.engine.engine import Engine
from server.engine.request import Request

SEEDS = range(TRAINING_SEEDS - 12, TRAINING_SEEDS)


def look(checkpoint: Path, sheet: Path) -> float:
    """Labels the scenes, draws them into `sheet` (a PNG file) and returns the detection's F1 at IoU 0.5."""
    marks, pictures = Marks(), []
    with Engine.load(str(checkpoint)) as engine:
        for seed in SEEDS:
            scene = draw(seed)
            tokens = ("<OD>", "<OCR_WITH_REGION>", "<CAPTION>")
            handles = [engine.submit(Request(scene.image, TASKS[token], max_new_tokens=96)) for token in tokens]
            found = [list(handle.wait().annotations) for handle in handles]
            pictures.append(drawing.draw(scene.image, [label for labels in found for label in labels]))
            truth = ask(scene, "<OD>", np.random.default_rng(seed))
            assert isinstance(truth, Question)  # every scene can be asked what is on it
            marks.mark(truth, scene, found[0])
    drawing.contact_sheet(pictures).save(sheet)
    return marks.figures()["<OD> F1@0.5"]
