"""Public test sets, with the prompts and metrics of Florence-2's authors, from folders as they are downloaded."""

from collections.abc import Callable
from pathlib import Path

from finetune.evaluation.suites import coco, flickr30k, refcoco, textvqa
from finetune.evaluation.suites.suite import CHECKPOINTS, Suite, SuiteMetric
from labels.dataset import DatasetError

__all__ = ["CHECKPOINTS", "SUITES", "Suite", "SuiteMetric", "open_suite"]

SUITES: dict[str, Callable[[Path], Suite]] = {
    "coco": coco.read_suite,
    "refcoco": refcoco.read_suite,
    "flickr30k": flickr30k.read_suite,
    "textvqa": textvqa.read_suite,
}


def open_suite(name: str, folder: str | Path) -> Suite:
    """Reads the suite called `name` from a folder. Raises DatasetError, which describes the expected layout."""
    if name not in SUITES:
        raise DatasetError(f"there is no suite {name}: use one of {', '.join(SUITES)}")
    path = Path(folder)
    if not path.is_dir():
        raise DatasetError(f"there is no folder {path}")
    return SUITES[name](path)
