"""The process of a fine-tune run: `python -m server.cli.tune_process RUN_FOLDER NICENESS`, which a server starts."""

import sys
from pathlib import Path

from server.projects.fine_tune_process import run_process
from server.projects.project_files import RunFolder


def main(folder: Path, niceness: int) -> None:
    """Runs the fine-tune of a run folder. The seedling replays drawn scenes, another model a dataset."""
    from seedling.replay import find_replay

    run_process(RunFolder(folder), niceness, find_replay)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
