"""The decoders of a server: slow images do not keep others waiting."""

import asyncio
import signal
import time

import psutil
import pytest
from PIL import Image

import server.image_decoding
from labels.decoder_pool import DecoderClosedError
from labels.images import ImageError, ImageErrorReason
from server.image_decoding import DecodersBusyError, ImageDecoding
from server.settings import Settings
from tests.labels.attack_images import draw_noise, encode, make_text_ppm

NOISE = encode(draw_noise(), "JPEG")
SLOW = make_text_ppm(1500)


def list_decoders() -> set[psutil.Process]:
    return {process for process in psutil.Process().children() if "decoder_process" in " ".join(process.cmdline())}


async def test_an_ordinary_image_does_not_wait_for_slow_ones() -> None:
    decoding = ImageDecoding(Settings(allow_netpbm=True, decode_timeout=300))
    await decoding.check(NOISE)
    slow = [asyncio.create_task(decoding.check(make_text_ppm(2000))) for _ in range(3)]
    await asyncio.sleep(0)
    assert await decoding.check(NOISE) == (64, 48)
    assert not any(task.done() for task in slow)
    assert not decoding.is_stuck()
    decoding.close()
    outcomes = await asyncio.gather(*slow, return_exceptions=True)
    assert all(isinstance(outcome, DecoderClosedError) for outcome in outcomes)


async def test_a_slow_image_is_decoded_by_the_slow_decoder() -> None:
    decoding = ImageDecoding(Settings())
    large = encode(Image.new("1", (4000, 4000)))
    assert await decoding.check(large) == (4000, 4000)
    decoded = await decoding.decode(large, (8, 8, Image.Resampling.BICUBIC))
    assert decoded.size == (4000, 4000)
    assert len(decoded.pixels) == 8 * 8 * 3
    decoding.close()


async def test_an_image_that_is_too_slow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.image_decoding, "_QUICK_SECONDS", 0.2)
    decoding = ImageDecoding(Settings(allow_netpbm=True, decode_timeout=0.5))
    with pytest.raises(ImageError, match=r"takes more than 0\.5 s to decode") as raised:
        await decoding.check(SLOW)
    assert raised.value.reason is ImageErrorReason.TOO_SLOW
    decoding.close()


async def test_the_images_that_wait_are_limited() -> None:
    decoding = ImageDecoding(Settings(max_waiting=32))
    tasks = [asyncio.create_task(decoding.check(NOISE)) for _ in range(200)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert (64, 48) in outcomes
    busy = [outcome for outcome in outcomes if isinstance(outcome, DecodersBusyError)]
    assert len(busy) + outcomes.count((64, 48)) == 200
    assert "images already wait to be decoded" in str(busy[0])
    decoding.close()


async def test_clients_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.image_decoding.os, "cpu_count", lambda: 1)
    decoding = ImageDecoding(Settings(max_waiting=32))
    done: list[str] = []

    async def check(client: str) -> tuple[int, int]:
        size = await decoding.check(NOISE, client)
        done.append(client)
        return size

    # Both decoders have started: a start takes seconds on a busy machine.
    await asyncio.gather(*(decoding.check(NOISE, client) for client in ("many", "few")))
    many = [asyncio.create_task(check("many")) for _ in range(33)]  # one is decoded, 32 wait
    await asyncio.sleep(0)
    few = [asyncio.create_task(check("few")) for _ in range(3)]
    many[20].cancel()
    assert await asyncio.gather(*few) == [(64, 48)] * 3
    # Each client has a decoder, which may be several times as slow as the other; in one queue it would be 30.
    assert done.count("many") <= 20
    outcomes = await asyncio.gather(*many, return_exceptions=True)
    assert sum(isinstance(outcome, DecodersBusyError) for outcome in outcomes) <= 3
    assert outcomes.count((64, 48)) >= 29
    assert not decoding._quick_queue._waiting
    assert decoding._quick_queue._free == 2
    decoding.close()


async def test_decoders_that_do_not_answer_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.image_decoding, "_STUCK_SECONDS", 0.1)
    monkeypatch.setattr(server.image_decoding.os, "cpu_count", lambda: 1)
    before, decoding = list_decoders(), ImageDecoding(Settings())
    await decoding.check(NOISE)  # also starts a process for the next image
    assert len(list_decoders() - before) == 2
    for decoder in list_decoders() - before:
        decoder.send_signal(signal.SIGSTOP)
    tasks = [asyncio.create_task(decoding.check(NOISE, client)) for client in "abc"]
    deadline = time.monotonic() + 60
    while not decoding.is_stuck():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    for decoder in list_decoders() - before:
        decoder.send_signal(signal.SIGCONT)
    assert await asyncio.gather(*tasks) == [(64, 48)] * 3
    assert not decoding.is_stuck()
    decoding.close()
