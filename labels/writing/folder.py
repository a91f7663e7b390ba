"""A folder, or one file, that appears whole or not at all."""

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

MARK = ".florist"  # the file by which an export is known, so that the next one may replace it
_FILE = "file"
_ODD = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\:*?\"<>|]"
)  # what some system or list of files refuses
_LONGEST = 200  # bytes of a name's part; most systems take 255, and suffixes grow


class Folder:
    """A folder in the making, at `root`. Paths are relative to it, with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open = ExitStack()

    def stream(self, path: str = _FILE) -> IO[str]:
        """A file to write (and read again) until the folder is done. What UTF-8 cannot say, half a surrogate pair of
        some file's name, is written as JSON says it."""
        file = self._path(path).open("w+", encoding="utf-8", errors="backslashreplace", newline="\n")
        return self._open.enter_context(file)

    def write(self, path: str, content: str | bytes) -> None:
        """One whole file."""
        data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        self._path(path).write_bytes(data)

    def remove(self, path: str) -> None:
        """Takes away a file that was only needed on the way."""
        (self.root / path).unlink()

    def free(self, name: str, pictures: str, sidecars: tuple[str, str] | None) -> str:
        """A path for a copy of the picture `name` that every system takes and that nothing has yet, neither under
        `pictures` nor, with the other suffix, in the folder of `sidecars`."""
        path = portable(name)
        candidate, n = path, 1
        while (self.root / pictures / candidate).exists() or (
            sidecars and (self.root / sidecars[0] / candidate.with_suffix(sidecars[1])).exists()
        ):
            n += 1
            candidate = path.with_stem(f"{path.stem}-{n}")
        return candidate.as_posix()

    def close(self) -> None:
        """Closes what is open."""
        self._open.close()

    def _path(self, path: str) -> Path:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        return full


def portable(name: str) -> PurePosixPath:
    """A relative path like `name` that stays inside its folder and that every system takes."""
    parts = []
    for part in name.split("/"):
        part = _ODD.sub("_", part).rstrip(". ")
        if part:
            stem, suffix = Path(part).stem, _cut(Path(part).suffix, _LONGEST // 2)
            # A leading dot hides a file from most readers.
            parts.append("_" * stem.startswith(".") + _cut(stem, _LONGEST - len(suffix.encode())) + suffix)
    return PurePosixPath(*parts or ["_"])


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


@contextmanager
def whole(out: Path, *, one_file: bool) -> Iterator[Folder]:
    """A folder beside `out` that takes its place when the block ends well, and is gone otherwise; with `one_file`, its
    default stream does. Raises FileExistsError where something lies at `out` that is no export of ours."""
    out = out.resolve()  # a link stays, and what it points to is replaced
    check(out, one_file=one_file)
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    held = os.open(part, os.O_RDONLY)
    folder = Folder(part)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder
        folder.close()
        if one_file:
            (part / _FILE).replace(out)
        else:
            check(out, one_file=False)
            if out.exists():
                # Two steps; a reader may find nothing for the moment between them, never half a dataset.
                out.rename(old := part.with_suffix(".old.part"))
                try:
                    part.rename(out)
                except OSError:
                    old.rename(out)
                    raise
                shutil.rmtree(old)
            else:
                part.rename(out)
    finally:
        folder.close()
        os.close(held)
        shutil.rmtree(part, ignore_errors=True)


def check(out: Path, *, one_file: bool) -> None:
    """Raises FileExistsError where an export to `out` would replace what is no export of ours."""
    if one_file:
        if out.is_dir():
            raise FileExistsError(f"{out} is a folder, and this format is one file: name a file")
    elif out.is_dir():
        if any(out.iterdir()) and not _ours(out):
            raise FileExistsError(f"{out} holds other things than an export of florist: name an empty or a new folder")
    elif out.exists():
        raise FileExistsError(f"{out} is a file, and this format is a folder: name a new folder")


def _ours(folder: Path) -> bool:
    try:
        return "left_out" in json.loads((folder / MARK).read_bytes())
    except (OSError, ValueError):
        return False


def _sweep(out: Path) -> None:
    """Takes away what killed exports to `out` left: their folders are held by nobody."""
    for part in out.parent.glob(f".{_literal(out.name)}.*.part"):
        try:
            held = os.open(part, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(part, ignore_errors=True)
        except OSError:
            pass  # somebody is at work in it
        finally:
            os.close(held)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
