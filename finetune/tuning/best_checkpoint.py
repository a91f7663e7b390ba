"""The best checkpoint of a run. Its folder is complete at any moment, even after a crash."""

import shutil
from pathlib import Path

_CANDIDATE, _PREVIOUS, _DROPPED = ".candidate", ".previous", ".dropped"


class BestCheckpoint:
    """The best checkpoint is in `folder`, as soon as there is one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._candidate, self._previous = folder.with_name(_CANDIDATE), folder.with_name(_PREVIOUS)
        self._dropped = folder.with_name(_DROPPED)

    def create_candidate(self) -> Path:
        """Returns an empty folder for another checkpoint. Raises OSError."""
        self.discard()
        self._candidate.mkdir()
        return self._candidate

    def accept(self) -> None:
        """Makes the candidate the best checkpoint. A crash leaves the candidate or the previous one. Raises OSError."""
        shutil.rmtree(self._previous, ignore_errors=True)
        if self.folder.exists():
            self.folder.replace(self._previous)  # a folder cannot replace one that is not empty
        self._candidate.replace(self.folder)
        shutil.rmtree(self._previous, ignore_errors=True)

    def discard(self) -> None:
        """Deletes the candidate."""
        shutil.rmtree(self._candidate, ignore_errors=True)

    def drop(self) -> None:
        """Takes the checkpoint of a run without a gain away, so that nobody uses it. `restore` brings it back. Raises
        OSError."""
        if self.folder.exists():
            shutil.rmtree(self._dropped, ignore_errors=True)
            self.folder.replace(self._dropped)

    def delete(self) -> None:
        """Deletes the checkpoint of a run without a gain for good. Raises OSError."""
        self.drop()
        shutil.rmtree(self._dropped, ignore_errors=True)

    def restore(self) -> None:
        """Brings back what `drop` took away. Raises OSError."""
        if self._dropped.exists() and not self.folder.exists():
            self._dropped.replace(self.folder)

    def recover(self) -> None:
        """Restores the previous checkpoint if `accept` was interrupted. Raises OSError."""
        if self._previous.exists() and not self.folder.exists():
            self._previous.replace(self.folder)
        shutil.rmtree(self._previous, ignore_errors=True)
