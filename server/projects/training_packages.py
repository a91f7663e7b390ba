"""The packages that fine-tune runs need. A server without them serves projects all the same."""

from labels.extras import describe_install, find_missing
from server.projects.errors import TrainingNotInstalledError

TRAINING_EXTRA = "train"


def check_training() -> None:
    """Raises TrainingNotInstalledError if this server cannot execute fine-tune runs."""
    if missing := find_missing(TRAINING_EXTRA):
        raise TrainingNotInstalledError(
            f"this server serves projects and cannot tune: it lacks {', '.join(missing)}. The operator installs them "
            f"({describe_install(TRAINING_EXTRA)}) and starts the run again; or tune elsewhere, with `florist tune`"
        )
