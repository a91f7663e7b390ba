"""Opens and reads broken and hostile sources. `python fuzz_sources.py SEED COUNT FOLDER` runs in a process with limits.

Prints a line for each input that raises anything but SourceError and SourceImageError, takes too long or too much
memory. The caller notices if the process is killed; the input is still in the folder.
"""

import contextlib
import gzip
import io
import json
import random
import resource
import signal
import struct
import sys
import tarfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.jobs.sources import SourceError, SourceImageError, open_source

MEMORY = 3 * 1024**3  # bytes of address space, of which the libraries take half a gigabyte
SECONDS = 60  # for one input, on a busy machine
_TOKENS = [
    b"9" * 5000, b"[" * 2000, b'{"a":' * 500, b'"' * 50, b"\0" * 512, b"\xff" * 64, b"1e999", b"NaN", b"\r", b",,,,",
    b"\\ud800", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"../", b"/etc/passwd", b"file:///etc/passwd", b"zip://a::file:///b",
    struct.pack("<Q", 2**63), struct.pack("<I", 0xFFFFFFFF), b"\x7f\xff\xff\xff", b"77777777777", b"\xf4\x8f\xbf\xbf",
]  # fmt: skip


class TooLongError(BaseException):
    """An input takes too long."""


def make_text(random: random.Random) -> bytes:
    names = [random.choice(["a.jpg", "b/c.png", "gone.jpg", "http://127.0.0.1:9/x.jpg", "ü.jpg"]) for _ in range(5)]
    return "\n".join(names).encode()


def make_csv(random: random.Random) -> bytes:
    return b'id,file_name\n1,a.jpg\n2,"b/c.png"\n3,"x\ny"\n' * random.randint(1, 3)


def make_jsonl(random: random.Random) -> bytes:
    return b"\n".join(json.dumps({"file_name": "a.jpg", "n": random.random()}).encode() for _ in range(4))


def make_coco(random: random.Random) -> bytes:
    images = [{"id": n, "file_name": "a.jpg", "width": random.randint(-1, 9), "x": [[1.5]]} for n in range(3)]
    return json.dumps({"info": {}, "images": images, "annotations": [{"bbox": [1, 2, 3, 4]}]}).encode()


def make_zip(random: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name in ("a.jpg", "d/b.png", "notes.txt", "unknown", "é.jpg"):
            archive.writestr(name, b"\xff\xd8\xff" + bytes(random.randint(0, 600)))
        archive.comment = bytes(random.randint(0, 30))
    return file.getvalue()


def make_tar(random: random.Random) -> bytes:
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=random.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    ) as archive:
        for name in ("a.jpg", "d/" + "n" * random.randint(1, 200) + ".png", "unknown", "é.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = random.randint(0, 1500)
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    return file.getvalue()


def make_table(random: random.Random) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    images = [{"bytes": bytes(random.randint(0, 500)), "path": f"{n}.jpg"} for n in range(9)]
    parquet.write_table(pyarrow.table({"image": images}), file, row_group_size=4)
    return file.getvalue()


MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    "list.txt": make_text,
    "list.csv": make_csv,
    "list.jsonl": make_jsonl,
    "a.zip": make_zip,
    "a.tar": make_tar,
    "a.tar.gz": lambda random: gzip.compress(make_tar(random), 1),
    "coco.json": make_coco,
    "t.parquet": make_table,
}
_TAR_FORMATS = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
_SLOW = ("coco.json", "t.parquet")  # those that start a process


def mutate(random: random.Random, data: bytes) -> bytes:
    content = bytearray(data)
    for _ in range(random.choice([0, 1, 1, 2, 4, 8])):
        at = random.randrange(len(content) + 1)
        kind = random.randrange(6)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del content[at : at + random.choice([1, 2, 16, 600])]
        elif kind == 2:
            content[at:at] = random.choice(_TOKENS)
        elif kind == 3:
            token = random.choice(_TOKENS)
            content[at : at + len(token)] = token
        elif kind == 4:
            content[at:at] = content[: random.randrange(len(content) + 1)]
        elif random.random() < 0.3:
            del content[at:]
    return bytes(content)


def open_and_read(path: Path) -> None:
    try:
        with open_source(str(path)) as source:
            for position in range(min(len(source), 12)):
                with contextlib.suppress(SourceImageError):
                    source[position].read()
    except SourceError:
        pass


def stop(*_: Any) -> None:
    raise TooLongError


def main(seed: int, count: int, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, stop)
    (folder / "b").mkdir(exist_ok=True)
    for name in ("a.jpg", "b/c.png"):
        (folder / name).write_bytes(b"\xff\xd8\xff")
    generator = random.Random(seed)
    for number in range(count):
        slow = number % 10 == 0
        name = generator.choice([name for name in MAKERS if (name in _SLOW) is slow])
        path = folder / name
        path.write_bytes(mutate(generator, MAKERS[name](generator)))
        signal.alarm(SECONDS)
        try:
            open_and_read(path)
        except BaseException:
            kept = folder / f"failure-{seed}-{number}-{name}"
            path.rename(kept)
            print(f"{kept.name}: {traceback.format_exc()}", flush=True)
        finally:
            signal.alarm(0)
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
