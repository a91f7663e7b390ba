"""Public test sets, asked and scored as Florence-2's authors report them, from folders as people have them on disk."""

from collections.abc import Callable
from pathlib import Path

from finetune.evaluation.suites import coco, flickr30k, refcoco, textvqa
from finetune.evaluation.suites.suite import COLUMNS, Row, Suite
from labels.dataset import DatasetError

__all__ = ["COLUMNS", "SUITES", "Row", "Suite", "open_suite"]

SUITES: dict[str, Callable[[Path], Suite]] = {
    "coco": coco.read,
    "refcoco": refcoco.read,
    "flickr30k": flickr30k.read,
    "textvqa": textvqa.read,
}


def open_suite(name: str, folder: str | Path) -> Suite:
    """The suite of that name in a folder. Raises DatasetError, saying which layout it needs."""
    if name not in SUITES:
        raise DatasetError(f"there is no suite {name}: take one of {', '.join(SUITES)}")
    path = Path(folder)
    if not path.is_dir():
        raise DatasetError(f"there is no folder {path}")
    return SUITES[name](path)
