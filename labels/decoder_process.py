"""A process that decodes images for another one, which ends it if an image takes too long.

It reads a request from a socket, answers it, and so on until the socket is closed. A message is a length, a JSON
object of that length, and bytes whose number the object states. `result` of a request is what it asks for: "size";
"bytes", the RGB bytes; or "file", the descriptor of a file with them after the message. See `decoder_pool` for the
other side.
"""

import json
import os
import resource
import signal
import socket
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from PIL import AvifImagePlugin, Image

from labels.images import ImageError, SlowImageError, decode_in_process

_LENGTH = struct.Struct(">I")
_BASE_MEMORY = 512 * 1024**2  # bytes beside the pixels: the file, tables of decoders, NumPy
_MEMORY_PER_PIXEL = 24  # bytes: RGBA is held up to five times while it becomes RGB
_QUICK_PIXELS = {"JPEG": 250_000_000, "MPO": 250_000_000, "PNG": 12_000_000, "JPEG2000": 1_500_000}
_QUICK_PIXELS_OF_OTHERS = 6_000_000
_QUICK_BYTES = {"JPEG2000": 1_000_000}  # a fifth of a second, where pixels alone say little
_SHARED_ROWS = 64  # that are copied at a time, so that they stay in the cache


def send_message(connection: socket.socket, header: Mapping[str, Any], data: bytes | memoryview = b"") -> None:
    """Sends a message. Raises OSError."""
    encoded = json.dumps({**header, "bytes": len(data)}).encode()
    connection.sendall(_LENGTH.pack(len(encoded)) + encoded)
    connection.sendall(data)


def receive_message(connection: socket.socket) -> tuple[dict[str, Any], bytearray]:
    """Returns the next message. Raises OSError, and EOFError if the other side closed the socket."""
    (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
    header = json.loads(_receive(connection, length))
    return header, _receive(connection, header["bytes"])


def receive_file(connection: socket.socket) -> int:
    """Returns the descriptor of a file that follows a message. Raises OSError and EOFError."""
    received, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    if not received or not descriptors:
        raise EOFError
    return descriptors[0]


def run_decoder(descriptor: int, options: Mapping[str, Any]) -> None:
    """Answers requests from the socket until it is closed.

    `options`: `seconds` of computing time for an image, after which the process ends by SIGPROF; `quick`: refuse images
    that are expected to take long; `nice`; `allow_netpbm`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the other process decides when this one ends
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # not one for each core, which would take memory for nothing
    with suppress(OSError):
        os.nice(options["nice"])
    with socket.socket(fileno=descriptor) as connection, suppress(EOFError, ConnectionError):
        while True:
            request, data = receive_message(connection)
            _limit_memory(request["max_pixels"])
            signal.setitimer(signal.ITIMER_PROF, options["seconds"])
            header, image = _answer(bytes(data), request, options)
            pixels = image.tobytes() if image and request["result"] == "bytes" else b""
            shared = _share_pixels(image) if image and request["result"] == "file" else None
            signal.setitimer(signal.ITIMER_PROF, 0)
            send_message(connection, header, pixels)
            if shared is not None:
                with shared:
                    socket.send_fds(connection, [b"f"], [shared.fileno()])
            del data, image, pixels


def _answer(
    data: bytes, request: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[dict[str, Any], Image.Image | None]:
    """Returns the header of the answer, and the image."""

    def check_cost(image: Image.Image, scans: int) -> None:
        name = image.format or ""
        pixels = image.width * image.height * scans
        is_slow = pixels > _QUICK_PIXELS.get(name, _QUICK_PIXELS_OF_OTHERS)
        if options["quick"] and (is_slow or len(data) > _QUICK_BYTES.get(name, len(data))):
            raise SlowImageError

    try:
        image = decode_in_process(
            data, max_pixels=request["max_pixels"], allow_netpbm=options["allow_netpbm"], on_header=check_cost
        )
        size = image.size
        if request["resize"]:
            width, height, resample = request["resize"]
            if image.width * image.height > width * height:  # otherwise the other side resizes it: less to send
                image = image.resize((width, height), Image.Resampling(resample))
        return {"size": size, "shape": image.size}, image
    except SlowImageError:
        return {"slow": True}, None
    except ImageError as error:
        return {"error": str(error)[:1000], "reason": error.reason}, None


def _share_pixels(image: Image.Image) -> IO[bytes]:
    """Returns a file in memory with four bytes for each pixel, as Pillow holds them."""
    name = "florist-image"
    in_memory = hasattr(os, "memfd_create")  # on Linux
    file = os.fdopen(os.memfd_create(name), "wb") if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
    for top in range(0, image.height, _SHARED_ROWS):
        rows = image.crop((0, top, image.width, min(top + _SHARED_ROWS, image.height)))
        file.write(rows.tobytes("raw", "RGBX"))
    file.flush()
    return file


def _limit_memory(max_pixels: int) -> None:
    """Limits the address space of this process, so that an image cannot take the memory of the machine."""
    with suppress(OSError, ValueError):  # no /proc, or a lower limit is set already
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + _BASE_MEMORY + _MEMORY_PER_PIXEL * max_pixels
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _receive(connection: socket.socket, count: int) -> bytearray:
    received = bytearray(count)
    view, done = memoryview(received), 0
    while done < count:
        read = connection.recv_into(view[done:])
        if not read:
            raise EOFError
        done += read
    return received
