"""PaliGemma's prompts and answers: `detect cat ; dog` → `<loc0012><loc0034><loc0567><loc0890> cat ; …`.

Locations are y1, x1, y2, x2 in 1024 bins; https://ai.google.dev/gemma/docs/paligemma/prompt-system-instructions.
"""

import re

from labels.reading.checks import LabelError, Size

_BINS = 1024
_BOX = re.compile(r"\s*<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>([^<>;]*)")
_CAPTION = re.compile(r"(caption|cap|describe)( [a-z]{2})?\s*")


def parse_labels(prompt: str) -> set[str]:
    """Returns the labels that a prompt asks to detect; none if it is not such a prompt."""
    verb, _, rest = prompt.strip().partition(" ")
    return {" ".join(label.split()) for label in rest.split(";") if label.strip()} if verb == "detect" else set()


def is_caption_prompt(prompt: str) -> bool:
    """Returns whether a prompt asks for a caption, in any language."""
    return _CAPTION.fullmatch(prompt.strip()) is not None


def parse_boxes(answer: str, size: Size) -> list[tuple[str, list[float]]]:
    """Returns the label and x1, y1, x2, y2 in pixels of each box. Raises LabelError."""
    boxes = []
    for part in answer.split(";"):
        if not part.strip():
            continue
        match = _BOX.fullmatch(part)
        if match is None:
            raise LabelError(f"its answer has {part.strip()[:60]!r}, which is not <loc0000>×4 with a label")
        y1, x1, y2, x2 = (int(value) / _BINS * size[i % 2 == 0] for i, value in enumerate(match.groups()[:4]))
        boxes.append((match[5], [x1, y1, x2, y2]))
    return boxes
