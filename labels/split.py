"""Splits that never put one picture on both sides: what is alike byte for byte stays together, whatever it is called.

The seed and the pictures decide, not their order; labels are spread as evenly as they can be, the rarest first
(iterative stratification: Sechidis, Tsoumakas and Vlahavas 2011).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

from labels.dataset import DatasetError
from labels.image_files import EncodedImage, compute_sha256
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from prompts.annotations import Box, Polygon

Examples = tuple[LabeledImage, ...]


def split(examples: Sequence[LabeledImage], share: float, *, seed: int) -> tuple[Examples, Examples]:
    """(what is taught, what is held out), each in the order given. `share`: of the different pictures, to hold out, 0
    to 1 (exclusive); one at least, unless it is 0, and never all. Raises DatasetError where there are not two different
    pictures, and ValueError for a share that is none."""
    if not 0 <= share < 1:
        raise ValueError(f"the share to hold out is from 0 to under 1, not {share}")
    if share == 0:
        return tuple(examples), ()
    sides = _dealt(examples, [1 - share, share], seed)
    return _chosen(examples, sides, 0), _chosen(examples, sides, 1)


def folds(examples: Sequence[LabeledImage], count: int, *, seed: int) -> list[tuple[Examples, Examples]]:
    """`count` pairs (what is taught, what is held out): each picture is held out once. Raises DatasetError where there
    are not so many different pictures, and ValueError for fewer than two folds."""
    if count < 2:
        raise ValueError(f"there are two folds at least, not {count}")
    sides = _dealt(examples, [1 / count] * count, seed)
    taught = [
        tuple(example for example, side in zip(examples, sides, strict=True) if side != fold) for fold in range(count)
    ]
    return [(taught[fold], _chosen(examples, sides, fold)) for fold in range(count)]


def content_of(example: LabeledImage) -> str:
    """By which pictures are alike: SHA-256 in hex, of the file where there is one, else of the pixels; of the name
    where the picture cannot be read."""
    try:
        if isinstance(example.open, EncodedImage):
            return compute_sha256(example.open)
        image = example.open()
        return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    except (OSError, ImageError):
        return hashlib.sha256(f"name {example.name}".encode("utf-8", "surrogatepass")).hexdigest()


def _chosen(examples: Sequence[LabeledImage], sides: Sequence[int], side: int) -> Examples:
    return tuple(example for example, own in zip(examples, sides, strict=True) if own == side)


def _dealt(examples: Sequence[LabeledImage], shares: Sequence[float], seed: int) -> list[int]:
    """The side of each example."""
    keys = [content_of(example) for example in examples]
    labels: dict[str, set[str]] = {key: set() for key in keys}
    for key, example in zip(keys, examples, strict=True):
        labels[key] |= {note.label for note in example.annotations if isinstance(note, Box | Polygon)}
    if len(labels) < len(shares):
        raise DatasetError(f"{len(labels)} different pictures cannot be parted in {len(shares)}: add pictures")
    waiting = sorted(labels, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    room = _rooms(len(waiting), shares)
    counts = Counter(label for key in waiting for label in labels[key])
    wanted = [{label: share * count for label, count in counts.items()} for share in shares]
    side_of = dict[str, int]()

    def deal(key: str, label: str | None) -> None:
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
                deal(key, rarest)
    for key in waiting:
        if key not in side_of:
            deal(key, None)
    return [side_of[key] for key in keys]


def _rooms(count: int, shares: Sequence[float]) -> list[int]:
    """How many each side takes: at least one, the rest by its share, what rounding leaves by the largest remainder."""
    exact = [share * count for share in shares]
    rooms = [max(int(value + 1e-9), 1) for value in exact]
    while sum(rooms) != count:
        less = sum(rooms) < count
        sides = range(len(shares)) if less else [side for side in range(len(shares)) if rooms[side] > 1]
        side = max(sides, key=lambda side: (exact[side] - rooms[side]) * (1 if less else -1))
        rooms[side] += 1 if less else -1
    return rooms
