"""Decodes the images of a server in other processes, so that no image keeps the others waiting.

The images of requests have quick decoders, which give up on an image after a second, and one slow decoder, which takes
over such images. Clients take turns, and one quick decoder is always left for another client. Everything else that the
server decodes, such as images of jobs, has decoders of its own. All yield to the model.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

import anyio

from labels.decoder_options import DecoderOptions
from labels.decoder_pool import DecodedImage, DecoderPool
from labels.images import SlowImageError, install_decoder
from server.settings import Settings

_QUICK_SECONDS = 1.0  # of computing time
_NICE = 5  # the model gets three quarters of a core that a decoder wants too
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
        quick = cores + 1  # one client has as many as there are cores
        self._quick = DecoderPool(quick, DecoderOptions(_QUICK_SECONDS, quick=True, nice=_NICE, allow_netpbm=netpbm))
        slow = DecoderOptions(settings.decode_timeout, nice=_NICE, allow_netpbm=netpbm)
        self._slow, self._others = DecoderPool(1, slow), DecoderPool(cores, slow)
        self._quick_queue = _Queue(quick, settings.max_waiting, settings.request_timeout)
        self._slow_queue = _Queue(1, _MAX_SLOW_WAITING, settings.request_timeout)

    def start(self) -> None:
        """Starts the first process, and lets `decode_image` use the decoders. Does not wait for the process."""
        install_decoder(self._others)
        self._quick.start()

    async def decode(self, data: bytes, resizing: tuple[int, int, int], client: str = "") -> DecodedImage:
        """Returns an image of a client, resized to a width and a height with a resampling filter of Pillow.

        Raises ImageError, DecodersBusyError, DecoderClosedError, and TimeoutError if it waits too long.
        """

        def decode(pool: DecoderPool) -> DecodedImage:
            return pool.decode_resized(data, resizing, max_pixels=self._max_pixels)

        return await self._run(decode, len(data), client)

    async def check(self, data: bytes, client: str = "") -> tuple[int, int]:
        """Decodes an image of a client, and returns its width and height. Raises as `decode` does."""
        return await self._run(lambda pool: pool.check(data, max_pixels=self._max_pixels), len(data), client)

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

    async def _run(self, decode: Callable[[DecoderPool], T], size: int, client: str) -> T:
        async with self._quick_queue.wait(size, client):
            try:
                return await anyio.to_thread.run_sync(decode, self._quick, limiter=anyio.CapacityLimiter(1))
            except SlowImageError:
                pass
        async with self._slow_queue.wait(size, client):
            return await anyio.to_thread.run_sync(decode, self._slow, limiter=anyio.CapacityLimiter(1))


class _Queue:
    """The images that wait for decoders. Clients take turns, and one of them never holds all decoders of several.

    It is only used in the event loop.
    """

    def __init__(self, decoders: int, max_waiting: int, timeout: float) -> None:
        self._free, self._max_held = decoders, max(decoders - 1, 1)
        self._max_waiting, self._timeout = max_waiting, timeout
        self._held = Counter[str]()  # decoders by client
        self._waiting: dict[str, dict[asyncio.Future[None], _Waiting]] = {}  # by client: next turn and oldest first
        self._last_start = 0.0

    @asynccontextmanager
    async def wait(self, size: int, client: str) -> AsyncIterator[None]:
        """Waits for a decoder for an image file of `size` bytes, and holds it during the block.

        Raises DecodersBusyError and TimeoutError.
        """
        self._make_room(size, client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, {})[turn] = _Waiting(size, time.monotonic())
        self._give_turns()
        try:
            async with asyncio.timeout(self._timeout):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release(client)
            raise
        finally:
            self._remove(client, turn)
        try:
            yield
        finally:
            self._release(client)

    def get_stuck_seconds(self) -> float:
        """Returns for how many seconds images have been waiting and none got a decoder."""
        if self._free or not self._waiting:
            return 0.0
        oldest = min(next(iter(images.values())).since for images in self._waiting.values())
        return time.monotonic() - max(self._last_start, oldest)

    def _make_room(self, size: int, client: str) -> None:
        """Refuses an image if too many wait: this one, or the newest of a client with more images."""
        while True:
            waiting = [image.size for images in self._waiting.values() for image in images.values()]
            if len(waiting) < self._max_waiting and (not waiting or sum(waiting) + size <= _MAX_WAITING_BYTES):
                return
            error = DecodersBusyError(f"{len(waiting)} images already wait to be decoded; retry later")
            other, images = max(self._waiting.items(), key=lambda item: len(item[1]))
            if len(images) <= len(self._waiting.get(client, ())) + 1:
                raise error
            turn = next(reversed(images))
            self._remove(other, turn)
            turn.set_exception(error)

    def _give_turns(self) -> None:
        for client in list(self._waiting):
            while self._free and client in self._waiting and self._held[client] < self._max_held:
                turn = next(iter(self._waiting[client]))
                images = self._waiting.pop(client)
                del images[turn]
                if images:
                    self._waiting[client] = images  # behind the other clients
                if not turn.done():
                    turn.set_result(None)
                    self._free -= 1
                    self._held[client] += 1
                    self._last_start = time.monotonic()
                    break

    def _release(self, client: str) -> None:
        self._free += 1
        self._held -= Counter({client: 1})
        self._give_turns()

    def _remove(self, client: str, turn: "asyncio.Future[None]") -> None:
        images = self._waiting.get(client, {})
        images.pop(turn, None)
        if not images:
            self._waiting.pop(client, None)


class _Waiting(NamedTuple):
    """An image file of `size` bytes that waits for a decoder since a time."""

    size: int
    since: float
