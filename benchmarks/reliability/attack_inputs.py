"""What `attacks` sends: images, labels, recipes, job sources and adapters that were made to keep a server busy."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save

from tests.field.test_job_sources import make_overlapping_zip
from tests.labels.attack_images import (
    draw_noise,
    encode,
    make_comments,
    make_padding,
    make_png,
    make_scans,
    make_text_ppm,
    make_thin_png,
)

_LAYER = "base_model.model.model.language_model.encoder.layers.0.fc1"


def _draw_large(side: int = 8000) -> Image.Image:
    return draw_noise(side // 4, side // 4).resize((side, side))


def _make_frames(kind: str, count: int = 500) -> bytes:
    frames = [Image.new("RGB", (1000, 1000), (n % 256, 0, 0)) for n in range(count)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


def _make_tiff(**options: Any) -> bytes:
    return encode(Image.new("RGB", (8000, 8000)), "TIFF", **options)


def _make_rle_bmp(side: int = 8000) -> bytes:
    rows = (b"\1\0" * (side // 1000) + b"\xff\1" * (side // 255) + b"\0\0") * side + b"\0\1"
    palette = bytes(1024)
    head = b"BM" + (54 + 1024 + len(rows)).to_bytes(4, "little") + bytes(4) + (54 + 1024).to_bytes(4, "little")
    fields = (40, side, side, (8 << 16) | 1, 1, len(rows), 0, 0, 256, 0)
    return head + b"".join(number.to_bytes(4, "little") for number in fields) + palette + rows


def _make_interlaced_png(side: int = 8000) -> bytes:
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join((b"\4" + bytes(-(-(side - x) // dx) * 3)) * -(-(side - y) // dy) for x, y, dx, dy in steps)
    return make_png(side, side, 8, 2, rows, interlaced=1)


# Attack → what makes its file, and what it did when it was found.
IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a PPM as text, 31 MB": (lambda: make_text_ppm(2270), "114 s"),
    "a JPEG with 1,000,000 comments": (lambda: make_comments(10**6), "21 s"),
    "a JPEG with 30 MB of padding": (lambda: make_padding(30 * 10**6), "42 s"),
    "a progressive JPEG of 300 scans": (lambda: make_scans(300, 2000), "51 s"),
    "a progressive JPEG of 3,000 scans": (lambda: make_scans(3000, 600), "more than 240 s, no end by SIGTERM"),
    "a progressive JPEG of 90 scans, 16 megapixels": (lambda: make_scans(80, 4000), ""),
    "a PNG of 1×64,000,000": (lambda: make_thin_png(64 * 10**6), "14 s"),
    "a JPEG of 64 megapixels": (lambda: encode(_draw_large(), "JPEG"), ""),
    "a JPEG of 16 megapixels": (lambda: encode(_draw_large(4000), "JPEG"), ""),
    "a PNG of 64 megapixels": (lambda: encode(Image.new("RGB", (8000, 8000))), ""),
    "a PNG of 12 megapixels": (lambda: encode(_draw_large(3460).quantize(256)), ""),
    "an interlaced PNG of 64 megapixels": (_make_interlaced_png, ""),
    "a JPEG 2000 of 1.4 megapixels": (lambda: encode(draw_noise(1180, 1180), "JPEG2000"), "others' p99 2.9 times"),
    "a JPEG 2000 of 64 megapixels": (lambda: encode(Image.new("RGB", (8000, 8000)), "JPEG2000"), ""),
    "a WebP of 6 megapixels": (lambda: encode(_draw_large(2440), "WEBP", method=0), ""),
    "a WebP of 64 megapixels": (lambda: encode(Image.new("RGB", (8000, 8000)), "WEBP", method=0, lossless=True), ""),
    "a WebP of 200 frames": (lambda: _make_frames("WEBP", 200), ""),
    "a GIF of 500 frames": (lambda: _make_frames("GIF"), ""),
    "a GIF of 64 megapixels": (lambda: encode(Image.new("P", (8000, 8000)), "GIF"), ""),
    "a TIFF of 64 megapixels, Deflate": (lambda: _make_tiff(compression="tiff_adobe_deflate"), ""),
    "a TIFF of 64 megapixels, LZW": (lambda: _make_tiff(compression="tiff_lzw"), ""),
    "a TIFF of 10 images": (lambda: _make_frames("TIFF", 10), ""),
    "an AVIF of 6 megapixels": (lambda: encode(_draw_large(2440), "AVIF", speed=10), ""),
    "an AVIF of 64 megapixels": (lambda: encode(Image.new("RGB", (8000, 8000)), "AVIF", speed=10), ""),
    "a BMP of 64 megapixels, RLE": (_make_rle_bmp, ""),
}


def make_chain(steps: int) -> dict[str, Any]:
    """Returns a recipe whose steps wait for each other in reverse."""
    chain = [{"id": f"s{i}", "task": "<REGION_TO_CATEGORY>", "for_each": f"s{i + 1}"} for i in range(steps)]
    return {"name": "x", "steps": [*chain, {"id": f"s{steps}", "task": "<OD>"}]}


RECIPES: dict[str, tuple[Any, str]] = {
    "a recipe of 20,000 steps in reverse": (make_chain(20_000), "300 s"),
    "1 MB of YAML flow": ("name: x\nsteps: [" + "[a], " * 200_000 + "]", "34 s"),
}


LABELS: dict[str, tuple[tuple[int, int], str]] = {
    "31 MB of labels": ((2000, 15_000), "ended the process"),
    "other labels each time, 1 MB": ((2000, 500), "event loop stalled 5 s, 640 MB kept each"),
    "other labels each time, as long as allowed": ((800, 70), ""),
}
"""Attack → number and length of labels, and what it did when it was found."""

ADAPTERS: dict[str, tuple[dict[str, Any], str]] = {
    "an adapter of weights 1e20": ({"scale": 1e20}, "500 at each prompt"),
    "an adapter of alpha 1e300": ({"scale": 1.0, "alpha": 1e300}, "500 at each prompt"),
    "an adapter with a lone surrogate": ({"scale": 1.0, "target": "\ud800"}, "500"),
}


def make_labels(count: int, length: int, first: int = 0) -> list[str]:
    """Returns different labels of `length` characters."""
    return [f"{first + n} " + "word " * (length // 5) for n in range(count)]


def make_adapter(scale: float = 1, alpha: float = 2, target: str = "fc1") -> dict[str, tuple[str, bytes]]:
    """Returns the files of an adapter of the seedling whose weights are all `scale`."""
    from server.engine.checkpoints.loading import load_checkpoint
    from server.engine.checkpoints.sources import SEEDLING

    key = _LAYER.removeprefix("base_model.model.")
    outputs, inputs = load_checkpoint(SEEDLING).model.get_lora_targets()[key].layer.weight.shape
    weights = {
        f"{_LAYER}.lora_A.weight": torch.full((2, inputs), scale),
        f"{_LAYER}.lora_B.weight": torch.full((outputs, 2), scale),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": alpha, "target_modules": [target]}
    return {"config": ("adapter_config.json", json.dumps(config).encode()), "weights": ("a.safetensors", save(weights))}


def write_sources(folder: Path) -> dict[str, tuple[Path, str]]:
    """Writes hostile job sources. Returns for each its path, and what it did when it was found."""
    content: dict[str, tuple[str, bytes, str]] = {
        "nested JSON": ("deep.json", b'{"images":[' + b"[" * 30_000_000, "9 GB"),
        "an integer of a million digits": (
            "digits.json", b'{"images":[{"id":' + b"9" * 1_000_000 + b',"file_name":"a.jpg"}]}', "the process ended"
        ),
        "a zip of overlapping entries": ("overlap.zip", make_overlapping_zip(), "8.8 GB"),
    }  # fmt: skip
    found = {}
    for name, (file, data, before) in content.items():
        (folder / file).write_bytes(data)
        found[name] = (folder / file, before)
    zeros = folder / "zeros"
    with zeros.open("wb") as empty:
        empty.truncate(4 * 1024**3)
    with tarfile.open(folder / "zeros.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(zeros, "a.jpg")
    zeros.unlink()
    return found | {"a tar of 4 GB of zeros": (folder / "zeros.tar.gz", "7.3 GB")}
