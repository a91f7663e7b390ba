"""Several processes that train together: a failure in one ends all of them."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from finetune.tuning.config import TuneConfig

# Each process fine-tunes. In the second one the loss of the second step becomes NaN. Each writes a file with its error,
# the best checkpoint that it reports, and whether its weights are those after the first step.
SCRIPT = """
import json, math, sys
from pathlib import Path

import torch

from finetune.tuning import loop
from finetune.tuning.config import TuneConfig
from finetune.tuning.run_record import TuneData
from tests.finetune.tuning.conftest import make_image


class FailingTrainer(loop.Trainer):
    number = 0

    def step(self, batches, number):
        self.number, self.before = number, self.copy_weights()
        trainers.append(self)
        return super().step(batches, number)

    def compute_losses(self, batch, *, anchored=True):
        losses = super().compute_losses(batch, anchored=anchored)
        fails = self.number == 1 and self.accelerator.process_index == 1
        return {**losses, "loss": losses["loss"] * math.nan} if fails else losses

    def copy_weights(self):
        return {name: value.detach().clone() for name, value in self.trainable.parameters.items()}


loop.Trainer, trainers = FailingTrainer, []
config, out = TuneConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
try:
    loop.tune(config, TuneData([make_image(seed) for seed in range(4)], [make_image(4)]), out / "run", workers=0)
except loop.DivergenceError as error:
    message, best = str(error), [error.result.best_step, error.result.before, error.result.best]
trainer = trainers[-1]
unchanged = all(torch.equal(value, trainer.before[name]) for name, value in trainer.copy_weights().items())
total = sum(value.double().sum().item() for value in trainer.before.values())
content = {"message": message, "best": best, "unchanged": unchanged, "sum": total}
(out / f"{trainer.accelerator.process_index}.json").write_text(json.dumps(content))
"""


def test_divergence_in_one_process_ends_all(base: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    config = TuneConfig(
        base=base, steps=3, batch_size=2, prompts_per_image=2, replay_share=0.0, lora_rank=4, lora_alpha=8,
        metric="loss", evaluate_every=1,
    )  # fmt: skip
    command = [sys.executable, str(tmp_path / "script.py"), config.model_dump_json(), str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    # The variables of torchrun, which itself would end a process that waits for one that died: that is tested here.
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **variables, "PYTHONPATH": str(Path(__file__).parents[3])}
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    ]
    deadline = time.monotonic() + 600  # otherwise one could wait for the other's gradient forever
    try:
        assert [process.wait(max(0, deadline - time.monotonic())) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["message"].startswith("step 2: the gradient is nan")
    assert second["message"].startswith("step 2: the loss is nan")
    assert first["best"] == second["best"]
    assert None not in second["best"]  # measured only in the first process
    assert first["unchanged"]
    assert second["unchanged"]
    assert first["sum"] == second["sum"]  # both have the same weights after the first step
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"
