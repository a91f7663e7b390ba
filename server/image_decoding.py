"""Decodes the images of a server in other processes, so that no image keeps the others waiting.

The images of requests have quick decoders, which give up on an image after a second, and one slow decoder, which takes
over such images. It yields to other processes. Everything else that the server decodes, such as images of jobs, has
decoders of its own.
"""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from labels.decoder_options import DecoderOptions
from labels.decoder_pool import DecodedImage, DecoderPool
from labels.images import SlowImageError, install_decoder
from server.settings import Settings

_QUICK_SECONDS = 1.0  # of computing time
_NICE = 5
_MAX_SLOW_WAITING = 16  # images that wait for the slow decoder
_MAX_WAITING_BYTES = 256 * 1024**2  # of the files that wait for one kind of decoder
_STUCK_SECONDS = 5.0  # without a decoder for the images that wait, until the server counts as not ready
_RETRY_SECONDS = 5.0
T = TypeVar("T")


class DecodersBusyError(Exception):
    """Too many images wait to be decoded. Retry after `retry_after` seconds."""

    retry_after = _RETRY_SECONDS


class ImageDecoding:
    """The decoders of a server. They start when they are needed."""

    def __init__(self, settings: Settings) -> None:
        cores = os.cpu_count() or 1
        netpbm, self._max_pixels = settings.allow_netpbm, settings.max_pixels
        self._quick = DecoderPool(cores, DecoderOptions(_QUICK_SECONDS, quick=True, allow_netpbm=netpbm))
        slow = DecoderOptions(settings.decode_timeout, nice=_NICE, allow_netpbm=netpbm)
        self._slow, self._others = DecoderPool(1, slow), DecoderPool(cores, slow)
        self._quick_queue = _Queue(cores, settings.max_waiting, settings.request_timeout)
        self._slow_queue = _Queue(1, _MAX_SLOW_WAITING, settings.request_timeout)

    def start(self) -> None:
        """Starts the first process, and lets `decode_image` use the decoders. Does not wait for the process."""
        install_decoder(self._others)
        self._quick.start()

    async def decode(self, data: bytes, resizing: tuple[int, int, int]) -> DecodedImage:
        """Returns an image, resized to a width and a height with a resampling filter of Pillow.

        Raises ImageError, DecodersBusyError, DecoderClosedError, and TimeoutError if it waits too long.
        """
        return await self._run(lambda pool: pool.decode_resized(data, resizing, max_pixels=self._max_pixels), len(data))

    async def check(self, data: bytes) -> tuple[int, int]:
        """Decodes an image, and returns its width and height. Raises as `decode` does."""
        return await self._run(lambda pool: pool.check(data, max_pixels=self._max_pixels), len(data))

    def is_stuck(self) -> bool:
        """Returns whether images wait, and no decoder has been free for them for some seconds."""
        return self._quick_queue.get_stuck_seconds() > _STUCK_SECONDS

    def close(self) -> None:
        """Ends all processes. Images that are being decoded, or wait, raise DecoderClosedError."""
        for pool in (self._quick, self._slow, self._others):
            pool.close()

    def uninstall(self) -> None:
        """Lets `decode_image` decode in this process again."""
        install_decoder(None)

    async def _run(self, decode: Callable[[DecoderPool], T], size: int) -> T:
        async with self._quick_queue.wait(size):
            try:
                return await anyio.to_thread.run_sync(decode, self._quick, limiter=anyio.CapacityLimiter(1))
            except SlowImageError:
                pass
        async with self._slow_queue.wait(size):
            return await anyio.to_thread.run_sync(decode, self._slow, limiter=anyio.CapacityLimiter(1))


class _Queue:
    """The images that wait for decoders. It is only used in the event loop."""

    def __init__(self, decoders: int, max_waiting: int, timeout: float) -> None:
        self._limiter = anyio.CapacityLimiter(decoders)
        self._max_waiting, self._timeout = max_waiting, timeout
        self._waiting: dict[object, float] = {}  # since when, oldest first
        self._waiting_bytes = 0
        self._last_start = 0.0

    @asynccontextmanager
    async def wait(self, size: int) -> AsyncIterator[None]:
        """Waits for a decoder for an image file of `size` bytes, and holds it during the block.

        Raises DecodersBusyError and TimeoutError.
        """
        is_full = self._waiting_bytes + size > _MAX_WAITING_BYTES and self._waiting
        if len(self._waiting) >= self._max_waiting or is_full:
            raise DecodersBusyError(f"{len(self._waiting)} images already wait to be decoded; retry later")
        borrower = object()
        self._waiting[borrower] = time.monotonic()
        self._waiting_bytes += size
        try:
            with anyio.fail_after(self._timeout):
                await self._limiter.acquire_on_behalf_of(borrower)
        finally:
            del self._waiting[borrower]
            self._waiting_bytes -= size
        self._last_start = time.monotonic()
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(borrower)

    def get_stuck_seconds(self) -> float:
        """Returns for how many seconds images have been waiting and none got a decoder."""
        if not self._waiting:
            return 0.0
        return time.monotonic() - max(self._last_start, next(iter(self._waiting.values())))
