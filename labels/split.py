"""Splits images into training and holdout. Images with the same content are always on the same side.

The split depends on the seed and the content of the images, not on their order. Labels are distributed as evenly as
possible, the rarest first (iterative stratification: Sechidis, Tsoumakas and Vlahavas 2011).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

from labels.dataset import DatasetError
from labels.image_files import EncodedImage, compute_sha256
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from prompts.annotations import Box, Polygon

Images = tuple[LabeledImage, ...]


def split_images(images: Sequence[LabeledImage], holdout_share: float, *, seed: int) -> tuple[Images, Images]:
    """Returns the training images and the holdout, each in the given order.

    `holdout_share` is the share of the different images to hold out, from 0 to 1 (exclusive): at least one image,
    unless it is 0, and never all. Raises DatasetError if there are not two different images, and ValueError for an
    invalid share.
    """
    if not 0 <= holdout_share < 1:
        raise ValueError(f"the holdout share must be from 0 to under 1, not {holdout_share}")
    if holdout_share == 0:
        return tuple(images), ()
    sides = _assign_sides(images, [1 - holdout_share, holdout_share], seed)
    train, holdout = (
        tuple(image for image, own in zip(images, sides, strict=True) if own == side) for side in range(2)
    )
    return train, holdout


def hash_content(image: LabeledImage) -> str:
    """Returns a SHA-256 in hex that is equal for images with the same content.

    It is the hash of the image's file; without a file, of the pixels; if the image cannot be read, of its name.
    """
    try:
        if isinstance(image.open, EncodedImage):
            return compute_sha256(image.open)
        pixels = image.open()
        return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
    except (OSError, ImageError):
        return hashlib.sha256(f"name {image.name}".encode("utf-8", "surrogatepass")).hexdigest()


def _assign_sides(images: Sequence[LabeledImage], shares: Sequence[float], seed: int) -> list[int]:
    """Returns the side of each image."""
    keys = [hash_content(image) for image in images]
    labels: dict[str, set[str]] = {key: set() for key in keys}
    for key, image in zip(keys, images, strict=True):
        labels[key] |= {each.label for each in image.annotations if isinstance(each, Box | Polygon)}
    if len(labels) < len(shares):
        raise DatasetError(f"{len(labels)} different images cannot be split into {len(shares)} parts: add images")
    waiting = sorted(labels, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    room = _compute_sizes(len(waiting), shares)
    counts = Counter(label for key in waiting for label in labels[key])
    wanted = [{label: share * count for label, count in counts.items()} for share in shares]
    side_of = dict[str, int]()

    def assign(key: str, label: str | None) -> None:
        def need(side: int) -> tuple[bool, float, int]:
            return room[side] > 0, wanted[side][label] if label is not None else 0.0, room[side]

        side = max(range(len(shares)), key=need)
        side_of[key] = side
        room[side] -= 1
        for own in labels[key]:
            wanted[side][own] -= 1
            counts[own] -= 1

    while remaining := {label: count for label, count in counts.items() if count > 0}:
        rarest = min(remaining, key=lambda label: (remaining[label], label))
        for key in waiting:
            if key not in side_of and rarest in labels[key]:
                assign(key, rarest)
    for key in waiting:
        if key not in side_of:
            assign(key, None)
    return [side_of[key] for key in keys]


def _compute_sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Returns the number of images on each side: at least one, otherwise by share and the largest remainder."""
    exact = [share * count for share in shares]
    sizes = [max(int(value + 1e-9), 1) for value in exact]
    while sum(sizes) != count:
        too_few = sum(sizes) < count
        sides = range(len(shares)) if too_few else [side for side in range(len(shares)) if sizes[side] > 1]
        side = max(sides, key=lambda side: (exact[side] - sizes[side]) * (1 if too_few else -1))
        sizes[side] += 1 if too_few else -1
    return sizes
