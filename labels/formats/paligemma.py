"""PaliGemma's prompts and answers: `detect cat ; dog` → `<loc0012><loc0034><loc0567><loc0890> cat ; …`, whose
locations are y1, x1, y2, x2 of 1024 parts; https://ai.google.dev/gemma/docs/paligemma/prompt-system-instructions."""

import re

from labels.reading.checks import LabelError, Size

_BINS = 1024
_BOX = re.compile(r"\s*<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>([^<>;]*)")
_CAPTION = re.compile(r"(caption|cap|describe)( [a-z]{2})?\s*")


def sought(prompt: str) -> set[str]:
    """The labels that a prompt asks to detect; none where it is no such prompt."""
    start, _, rest = prompt.strip().partition(" ")
    return {" ".join(label.split()) for label in rest.split(";") if label.strip()} if start == "detect" else set()


def is_caption(prompt: str) -> bool:
    """Whether it asks for a caption, in any language."""
    return _CAPTION.fullmatch(prompt.strip()) is not None


def boxes(answer: str, size: Size) -> list[tuple[str, list[float]]]:
    """Label and x1, y1, x2, y2 in pixels of each box. Raises LabelError."""
    found = []
    for part in answer.split(";"):
        if not part.strip():
            continue
        match = _BOX.fullmatch(part)
        if match is None:
            raise LabelError(f"its answer has {part.strip()[:60]!r}, which is no <loc0000>×4 with a label")
        y1, x1, y2, x2 = (int(value) / _BINS * size[i % 2 == 0] for i, value in enumerate(match.groups()[:4]))
        found.append((match[5], [x1, y1, x2, y2]))
    return found
