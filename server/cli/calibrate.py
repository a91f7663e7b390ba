"""Calibrates the scores of a checkpoint: `python -m server.cli.calibrate CHECKPOINT [DATASET]`."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.calibration import MIN_ANSWERS, calibrate_checkpoint
from finetune.evaluation.report import make_evaluation_samples
from labels.dataset import DatasetError
from labels.opening import open_dataset
from seedling.scenes.labeled_images import make_labeled_samples
from server.engine.checkpoints.errors import CheckpointError

FIRST_SEED = 500_000  # of the scenes; neither training nor the report draws these


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint; its calibration.json is replaced.")],
    dataset: Annotated[
        Path | None, typer.Argument(help="Labels that were not trained, in a format that `florist evaluate` reads.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Without a dataset: the number of drawn scenes.")] = 400,
) -> None:
    """Calibrates the scores of a checkpoint on labels that it was not trained on."""
    if not (checkpoint / "config.json").is_file():
        raise typer.BadParameter(
            f"{checkpoint} is not the folder of a checkpoint: it has no config.json", param_hint="CHECKPOINT"
        )
    try:
        if dataset:
            data = open_dataset(dataset)
            samples = make_evaluation_samples(data.evaluation_images, classes=data.classes)
        else:
            samples = make_labeled_samples(range(FIRST_SEED, FIRST_SEED + scenes))
        results = calibrate_checkpoint(checkpoint, samples)
    except (DatasetError, CheckpointError, OSError) as error:
        raise SystemExit(str(error)) from error
    for token, result in results.items():
        before, after = result.ece
        print(f"{token}: error of {len(result.before)} scores {before:.3f} before, {after:.3f} after")
    if not results:
        raise SystemExit(f"no task has {MIN_ANSWERS} answers, correct and wrong ones: nothing was changed")


if __name__ == "__main__":
    typer.run(main)
