"""Images that are decoded in other processes."""

import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from PIL import Image

from labels.decoder_options import DecoderOptions
from labels.decoder_pool import DecoderClosedError, DecoderPool, decode_in_processes
from labels.images import ImageError, ImageErrorReason, SlowImageError, decode_image, decode_in_process
from tests.labels.attack_images import draw_noise, encode, make_scans, make_text_ppm

NOISE = encode(draw_noise(), "JPEG")
SLOW = make_text_ppm(1500)  # takes seconds


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(2, DecoderOptions(seconds=0.3))
    yield pool
    pool.close()


def list_decoders() -> set[psutil.Process]:
    return {process for process in psutil.Process().children() if "decoder_process" in " ".join(process.cmdline())}


def test_the_pixels_are_those_of_this_process(pool: DecoderPool) -> None:
    for image in (draw_noise(), draw_noise(1, 500), draw_noise(300, 1, 4), draw_noise(130, 130, 1)):
        data = encode(image)
        expected, got = decode_in_process(data), pool.decode(data)
        assert (got.mode, got.size) == ("RGB", expected.size)
        assert (np.asarray(got) == np.asarray(expected)).all()
        assert (np.asarray(got.crop((0, 0, 1, 1))) == np.asarray(expected.crop((0, 0, 1, 1)))).all()
    got.paste("red", (0, 0, 9, 9))  # on a copy of the shared memory
    assert got.getpixel((3, 3)) == (255, 0, 0)


def test_an_image_is_resized_as_here(pool: DecoderPool) -> None:
    for target in ((30, 20), (300, 20)):  # smaller and larger
        expected = decode_in_process(NOISE).resize(target, Image.Resampling.BICUBIC)
        decoded = pool.decode_resized(NOISE, (*target, Image.Resampling.BICUBIC), max_pixels=10_000)
        assert decoded.size == (64, 48)
        assert bytes(decoded.pixels) == expected.tobytes()
    assert pool.check(NOISE, max_pixels=10_000) == (64, 48)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (NOISE[:900], ImageErrorReason.TRUNCATED),
        (b"hello", ImageErrorReason.UNREADABLE),
        (encode(Image.new("1", (200, 200))), ImageErrorReason.TOO_LARGE),
        (SLOW[:-100_000], ImageErrorReason.TOO_LARGE),
        (make_scans(200), ImageErrorReason.TOO_SLOW),
    ],
)
def test_errors_are_those_of_this_process(pool: DecoderPool, data: bytes, reason: ImageErrorReason) -> None:
    with pytest.raises(ImageError) as raised:
        pool.decode(data, max_pixels=10_000)
    assert raised.value.reason is reason


def test_an_image_that_takes_too_long_is_refused_and_others_go_on(pool: DecoderPool) -> None:
    results: list[object] = []

    def decode(data: bytes) -> None:
        try:
            results.append(pool.decode(data).size)
        except ImageError as error:
            results.append(error)

    threads = [threading.Thread(target=decode, args=(data,)) for data in (SLOW, NOISE, NOISE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (error,) = [result for result in results if isinstance(result, ImageError)]
    assert str(error).startswith("the image takes more than 0.3 s to decode")
    assert error.reason is ImageErrorReason.TOO_SLOW
    assert results.count((64, 48)) == 2
    assert pool.decode(NOISE).size == (64, 48)


def test_a_decoder_that_somebody_ends_is_replaced() -> None:
    before = list_decoders()
    pool = DecoderPool(1)
    pool.decode(NOISE)
    (decoder,) = list_decoders() - before
    decoder.kill()
    assert pool.decode(NOISE).size == (64, 48)
    (other,) = list_decoders() - before
    other.send_signal(signal.SIGTERM)  # only the pool ends it
    assert pool.decode(NOISE).size == (64, 48)
    assert other.is_running()
    pool.close()
    assert not list_decoders() - before


def test_memory_is_limited() -> None:
    before = list_decoders()
    pool = DecoderPool(1)
    pool.check(NOISE, max_pixels=10_000)
    (decoder,) = list_decoders() - before
    soft, _ = decoder.rlimit(psutil.RLIMIT_AS)
    assert 0 < soft < 2 * 1024**3
    pool.close()


def test_quick_decoders_leave_slow_images_to_others() -> None:
    pool = DecoderPool(1, DecoderOptions(seconds=0.3, quick=True))
    assert pool.check(NOISE, max_pixels=10**7) == (64, 48)
    with pytest.raises(SlowImageError):
        pool.check(SLOW, max_pixels=10**7)  # found out by its time
    with pytest.raises(SlowImageError):
        pool.check(encode(Image.new("1", (4000, 4000))), max_pixels=10**8)  # by its header
    pool.close()


def test_closing_ends_what_is_being_decoded_and_what_waits() -> None:
    pool, results = DecoderPool(1, DecoderOptions(seconds=60)), []

    def decode() -> None:
        try:
            pool.decode(make_text_ppm(3000))
        except DecoderClosedError as error:
            results.append(error)

    threads = [threading.Thread(target=decode) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)  # any moment will do
    pool.close()
    for thread in threads:
        thread.join(20)
    assert len(results) == 3
    with pytest.raises(DecoderClosedError):
        pool.decode(NOISE)


def test_text_images_are_refused_unless_they_are_allowed() -> None:
    pool = DecoderPool(1, DecoderOptions(allow_netpbm=False))
    with pytest.raises(ImageError, match="this is a PPM"):
        pool.decode(make_text_ppm(2))
    pool.close()


def test_decode_image_uses_the_processes_during_the_block() -> None:
    with decode_in_processes(DecoderOptions(seconds=0.3)), pytest.raises(ImageError, match="takes more than"):
        decode_image(SLOW)
    assert decode_image(make_text_ppm(2)).size == (2, 2)
