"""Decodes images in other processes, which are ended if an image takes too long or too much memory."""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from labels.child_environment import make_child_environment
from labels.decoder_options import DecoderOptions
from labels.decoder_process import receive_file, receive_message, send_message
from labels.images import MAX_PIXELS, ImageError, ImageErrorReason, SlowImageError, install_decoder

_START_SECONDS = 10.0  # in which a process starts on a busy machine
_WALL_FACTOR = 6.0  # how much longer than its computing time an image may take, on a busy machine
_ROOT = Path(__file__).resolve().parents[1]
_COMMAND = (
    "import sys, json; sys.path.remove(''); sys.path.append({root!r}); from labels.decoder_process import run_decoder; "
    "run_decoder({descriptor}, json.loads({options!r}))"
)


class DecoderClosedError(Exception):
    """The decoder was closed before the image was decoded."""


class _DecoderDiedError(Exception):
    """The process ended while it decoded. The argument is its exit code."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """`size`: width and height of the image, upright. `pixels`: RGB bytes of the resized image."""

    size: tuple[int, int]
    pixels: bytes | bytearray


class DecoderPool:
    """Processes that decode images, each one at a time. They start when they are needed.

    Safe to use from any thread.
    """

    def __init__(self, processes: int, options: DecoderOptions | None = None) -> None:
        """`processes`: how many there are at most. More images wait."""
        self.options = options or DecoderOptions()
        self._processes = processes
        self._free = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: list[_Decoder] = []
        self._busy: set[_Decoder] = set()
        self._closed = False

    def start(self) -> None:
        """Starts a process before it is needed. Does not wait for it."""
        with self._lock:
            if not self._closed and not self._idle:
                self._idle.append(_Decoder(self.options))

    def decode(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """Returns an encoded image as RGB, upright. Raises ImageError, SlowImageError and DecoderClosedError."""
        size, _, pixels = self._decode(data, {"max_pixels": max_pixels, "resize": None, "result": "file"})
        return Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1).convert("RGB")

    def decode_resized(self, data: bytes, resize: tuple[int, int, int], *, max_pixels: int) -> DecodedImage:
        """Returns an encoded image resized to a width and a height with one of Pillow's resampling filters. Raises as
        `decode` does."""
        request = {"max_pixels": max_pixels, "resize": resize, "result": "bytes"}
        size, shape, pixels = self._decode(data, request)
        if shape != resize[:2]:
            image = Image.frombuffer("RGB", shape, pixels, "raw", "RGB", 0, 1)
            pixels = image.resize(resize[:2], Image.Resampling(resize[2])).tobytes()
        return DecodedImage(size, pixels)

    def check(self, data: bytes, *, max_pixels: int) -> tuple[int, int]:
        """Decodes an image only to check it. Returns its width and height. Raises as `decode` does."""
        return self._decode(data, {"max_pixels": max_pixels, "resize": None, "result": "size"})[0]

    def _decode(self, data: bytes, request: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int], Any]:
        """Returns the width and height of the image, those of the pixels, and the buffer with the pixels."""
        with self._free:
            for attempt in (1, 2):
                try:
                    with self._use_decoder() as decoder:
                        header, pixels = decoder.request(request, data)
                    break
                except _DecoderDiedError as error:
                    if self._closed:
                        raise DecoderClosedError("the server stopped before the image was decoded") from error
                    if error.args[0] == -signal.SIGPROF:
                        raise self._make_time_error() from error
                    if attempt == 2:  # once it may have been ended by somebody else
                        message = "the decoder failed on the image; save it again, as JPEG or PNG"
                        raise ImageError(message, ImageErrorReason.UNREADABLE) from error
        if "error" in header:
            raise ImageError(header["error"], ImageErrorReason(header["reason"]))
        if "slow" in header:
            raise SlowImageError
        (width, height), (columns, rows) = header["size"], header["shape"]
        return (width, height), (columns, rows), pixels

    def close(self) -> None:
        """Ends all processes, also those that are decoding. Images that wait raise DecoderClosedError."""
        with self._lock:
            self._closed = True
            decoders = [*self._idle, *self._busy]
            self._idle.clear()
        for decoder in decoders:
            decoder.kill()

    @contextmanager
    def _use_decoder(self) -> "Iterator[_Decoder]":
        with self._lock:
            if self._closed:
                raise DecoderClosedError("the server stopped before the image was decoded")
            decoder = self._idle.pop() if self._idle else _Decoder(self.options)
            self._busy.add(decoder)
            if self.options.quick and not self._idle and len(self._busy) < self._processes:
                self._idle.append(_Decoder(self.options))  # ready for the next image: a start takes a second
        try:
            yield decoder
        except BaseException:
            decoder.kill()
            raise
        else:
            with self._lock:
                if not self._closed:
                    self._idle.append(decoder)
        finally:
            with self._lock:
                self._busy.discard(decoder)

    def _make_time_error(self) -> Exception:
        if self.options.quick:
            return SlowImageError()
        message = f"the image takes more than {self.options.seconds:g} s to decode; save it again, as baseline JPEG"
        return ImageError(message, ImageErrorReason.TOO_SLOW)


class _Decoder:
    """One process, and the socket to it."""

    def __init__(self, options: DecoderOptions) -> None:
        self._connection, other = socket.socketpair()
        self._connection.settimeout(_START_SECONDS + _WALL_FACTOR * options.seconds)
        command = _COMMAND.format(root=str(_ROOT), descriptor=other.fileno(), options=json.dumps(asdict(options)))
        # With one thread and one heap: more would take memory for nothing.
        environment = make_child_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1")
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", command], pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, env=environment
            )

    def request(self, header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Any]:
        """Returns the header of the answer, and the buffer with the pixels. Raises _DecoderDiedError."""
        try:
            send_message(self._connection, header, data)
            answer, pixels = receive_message(self._connection)
            if header["result"] != "file" or "size" not in answer:
                return answer, pixels
            with os.fdopen(receive_file(self._connection), "rb") as file:
                return answer, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except TimeoutError as error:
            self.kill()
            raise _DecoderDiedError(-signal.SIGPROF) from error
        except (EOFError, OSError) as error:
            self._process.kill()
            raise _DecoderDiedError(self._process.wait()) from error

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._process.wait()
        self._connection.close()


@contextmanager
def decode_in_processes(options: DecoderOptions | None = None) -> Iterator[DecoderPool]:
    """Lets `decode_image` decode in other processes, one for each core, during the block."""
    pool = DecoderPool(os.cpu_count() or 1, options)
    install_decoder(pool)
    try:
        yield pool
    finally:
        install_decoder(None)
        pool.close()
