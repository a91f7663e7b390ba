"""The adapters that a server keeps: loaded into its engine, and in a folder from which a restart has them again."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from server.engine.adapters.errors import AdapterError
from server.engine.adapters.registry import Adapter
from server.engine.engine import Engine

NAME_PATTERN = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?"
)  # a folder's; what begins with a dot is ours
NAME_RULE = "a name has up to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit"
_OLD = ".old-"  # before the name of one that is being replaced
_PART = ".part-"  # what is being written or removed
logger = logging.getLogger(__name__)


class AdapterStore:
    """Puts adapters into an engine and takes them out. Not thread safe: its owner calls one thing at a time.

    `folder`: where each is kept in a subfolder of its name, as PEFT saves it; None: in the engine's memory alone.
    """

    def __init__(self, engine: Engine, folder: Path | None) -> None:
        self.engine, self.folder = engine, folder

    def load(self) -> None:
        """Loads what the folder holds, and makes one where there is none. What is broken is logged and passed over.

        Raises OSError when the folder itself cannot be used.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        _tidy(self.folder)
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                if not NAME_PATTERN.fullmatch(path.name):
                    raise AdapterError(f"{NAME_RULE}; rename it")
                adapter = self.engine.load_adapter(path.name, path)
            except AdapterError as error:
                logger.error("the adapter %s is not served: %s", path, error)
            except Exception:  # whatever a file does to its reader, the others are served
                logger.exception("the adapter %s is not served", path)
            else:
                logger.info("the adapter %s is loaded: %s bytes", path, f"{adapter.bytes:,}")

    def put(self, name: str, files: Mapping[str, BinaryIO], sha256: str | None = None) -> tuple[Adapter, bool]:
        """Loads and keeps an adapter; whether its name is new. `files`: by their names in PEFT's folder; `sha256`: what
        its weights must have. Raises AdapterError or OSError, and then all is as it was."""
        new = not self._loaded(name)
        with _written(files, self.folder) as made:
            adapter = self.engine.load_adapter(name, made, sha256)
            if self.folder is not None:
                try:
                    _keep(made, self.folder / name)
                except OSError:
                    self._revert(name, self.folder / name, new)
                    raise
        return adapter, new

    def delete(self, name: str) -> None:
        """Unloads an adapter, and removes it from the folder. Raises UnknownAdapter or OSError."""
        if self.folder is not None and self._loaded(name) and (kept := self.folder / name).exists():
            gone = Path(tempfile.mkdtemp(prefix=_PART, dir=self.folder))
            try:
                kept.rename(gone / name)
            finally:
                _remove(gone)
        self.engine.unload_adapter(name)

    def _loaded(self, name: str) -> bool:
        return any(adapter.name == name for adapter in self.engine.adapters())

    def _revert(self, name: str, kept: Path, new: bool) -> None:
        """Takes an adapter that could not be kept out of the engine again."""
        if new:
            self.engine.unload_adapter(name)
        else:
            with suppress(AdapterError):
                self.engine.load_adapter(name, kept)


@contextmanager
def _written(files: Mapping[str, BinaryIO], beside: Path | None) -> Iterator[Path]:
    """A folder of these files, which is removed at the end unless it was renamed."""
    made = Path(tempfile.mkdtemp(prefix=_PART, dir=beside))
    try:
        for file, source in files.items():
            with (made / file).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())  # or a rename might outlive what it names
        yield made
    finally:
        _remove(made)


def _keep(made: Path, target: Path) -> None:
    """Renames a folder to where it stays: in two steps where it replaces one, and `_tidy` mends what ends between."""
    old = target.with_name(_OLD + target.name)
    _remove(old)
    replaces = target.exists()
    if replaces:
        target.rename(old)
    try:
        made.rename(target)
    except OSError:
        if replaces:
            old.rename(target)
        raise
    _remove(old)


def _tidy(folder: Path) -> None:
    """Ends what was cut short: parts go, and one that was to be replaced comes back where its successor is missing."""
    for path in list(folder.iterdir()):
        if path.name.startswith(_OLD) and not (name := folder / path.name.removeprefix(_OLD)).exists():
            path.rename(name)
        elif path.name.startswith((_OLD, _PART)):
            _remove(path)


def _remove(path: Path) -> None:
    """A folder with all in it, or the link to one; what is not there is no error."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
