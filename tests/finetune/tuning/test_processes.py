"""Several processes that learn together: what one of them meets, all of them hear of."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from finetune.tuning.config import TuneConfig

# Each process tunes, and the second one's loss is no number at the second step. What each ends by is in a file of its
# own, with what it tells of the run when it was last good, and whether its weights are those that the first step left.
SCRIPT = """
import json, math, sys
from pathlib import Path

import torch

from labels.labeled_image import LabeledImage
from labels.dataset import Labels
from seedling.scenes.drawing import draw
from finetune.tuning import loop
from finetune.tuning.config import TuneConfig
from prompts.annotations import Box


def example(seed):
    scene = draw(seed, objects=(1, 2), words=(0, 0))
    boxes = tuple(Box(label=thing.category, box=thing.box) for thing in scene.objects)
    whole = frozenset({Labels.OBJECTS})
    return LabeledImage(f"{seed}.png", "drawn", scene.width, scene.height, boxes, lambda: scene.image, whole)


class Watched(loop.Trainer):
    number = 0

    def step(self, lessons, number):
        self.number, self.before = number, self.weights()
        watched.append(self)
        return super().step(lessons, number)

    def losses(self, lesson, *, anchored=True):
        found = super().losses(lesson, anchored=anchored)
        broken = self.number == 1 and self.accelerator.process_index == 1
        return {**found, "total": found["total"] * math.nan} if broken else found

    def weights(self):
        return {name: value.detach().clone() for name, value in self.learner.learned.items()}


loop.Trainer, watched = Watched, []
config, out = TuneConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
try:
    loop.tune(config, [example(seed) for seed in range(4)], out / "run", held=[example(4)], workers=0)
except loop.Diverged as error:
    said, good = str(error), [error.kept.best_step, error.kept.before, error.kept.best]
trainer = watched[-1]
kept = all(torch.equal(value, trainer.before[name]) for name, value in trainer.weights().items())
total = sum(value.double().sum().item() for value in trainer.before.values())
ended = {"said": said, "good": good, "kept": kept, "sum": total}
(out / f"{trainer.accelerator.process_index}.json").write_text(json.dumps(ended))
"""


def test_a_loss_that_is_no_number_in_one_process_stops_all(base: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    config = TuneConfig(
        base=base, steps=3, pictures=2, prompts=2, replay=0.0, rank=4, alpha=8, metric="loss", evaluate=1
    )
    command = [sys.executable, str(tmp_path / "script.py"), config.model_dump_json(), str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    # What torchrun tells its processes; it would end those that wait for one that died, which is what is asked here.
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(command, env={**os.environ, **told, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    ]
    ends = time.monotonic() + 600  # else one waits for the other's gradient
    try:
        assert [process.wait(max(0, ends - time.monotonic())) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
            process.wait()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["said"].startswith("step 2: the gradient is nan")
    assert second["said"].startswith("step 2: the loss is nan")
    assert first["good"] == second["good"]
    assert None not in second["good"]  # what was measured in the first process alone
    assert first["kept"]
    assert second["kept"]
    assert first["sum"] == second["sum"]  # the first step left both of them the same weights
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"
