"""The best that a run has made, in a folder that is whole at any moment, whatever dies."""

import shutil
from pathlib import Path

_CANDIDATE, _PREVIOUS = ".candidate", ".previous"


class Best:
    """In `folder`, once there is one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._candidate, self._previous = folder.with_name(_CANDIDATE), folder.with_name(_PREVIOUS)

    def candidate(self) -> Path:
        """An empty folder to write another into. Raises OSError."""
        self.dismiss()
        self._candidate.mkdir()
        return self._candidate

    def take(self) -> None:
        """The candidate is the best from now on. A kill meanwhile leaves it, or the one before. Raises OSError."""
        shutil.rmtree(self._previous, ignore_errors=True)
        if self.folder.exists():
            self.folder.replace(self._previous)  # no folder can be put in place of one that holds something
        self._candidate.replace(self.folder)
        shutil.rmtree(self._previous, ignore_errors=True)

    def dismiss(self) -> None:
        """The candidate is no better."""
        shutil.rmtree(self._candidate, ignore_errors=True)

    def recover(self) -> None:
        """After a kill: where `take` had put the one before aside, it comes back. Raises OSError."""
        if self._previous.exists() and not self.folder.exists():
            self._previous.replace(self.folder)
        shutil.rmtree(self._previous, ignore_errors=True)
