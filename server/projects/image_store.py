"""The files of corrected images. Their names are their hashes, so that each image is stored once."""

import hashlib
import os
import tempfile
from pathlib import Path


class ImageStore:
    """Image files in `folder`, which is created with the first one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_path(self, sha256: str) -> Path:
        """Returns the path of an image file."""
        return self.folder / sha256[:2] / sha256

    def add_image(self, data: bytes) -> str:
        """Writes an image file if it does not exist, and returns its SHA-256.

        Raises OSError. Then no partial file is left.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.get_path(sha256)
        if path.exists():
            return sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as part:
            try:
                part.write(data)
                part.flush()
                os.fsync(part.fileno())  # else a crash could leave the final name with no content
                Path(part.name).rename(path)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
        return sha256
