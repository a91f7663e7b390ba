"""The table of tasks: what is asked, with which words, and what kind of answer comes back.

Source: Microsoft's Florence2Processor (task_prompts_*, tasks_answer_post_processing_type) and the
model card. One more task is one more row.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from prompts import locations

BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
CONTROL = (BOS, EOS, PAD, IMAGE, "<mask>", "<unk>")
# Structure and location tokens in the order in which the hub's tokenizer adds them to BART's.
STRUCTURE_BEFORE = ("<od>", "</od>", "<ocr>", "</ocr>")
LOCATIONS = tuple(f"<loc_{i}>" for i in range(locations.BINS))
STRUCTURE_AFTER = (
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>"),
    *("<seg>", "</seg>", "<sep>", "<region_cap>", "</region_cap>"),
    *("<region_to_desciption>", "</region_to_desciption>", "<proposal>", "</proposal>"),
    *("<poly>", "</poly>", "<and>"),
)
ADDED_TOKENS = (*STRUCTURE_BEFORE, *LOCATIONS, *STRUCTURE_AFTER, IMAGE)


class Takes(StrEnum):
    """What a prompt needs beside the picture."""

    NOTHING = "nothing"
    TEXT = "text"
    REGION = "region"


class Gives(StrEnum):
    """The grammar of the answer."""

    TEXT = "text"
    BOXES = "boxes"  # label, then one or more groups of four locations
    PHRASES = "phrases"  # boxes, labelled with phrases of the prompt
    QUADS = "quads"  # words, then eight locations
    POLYGONS = "polygons"  # rings of locations, <sep> between rings, <poly> around instances
    ANY = "boxes or polygons"  # label, then either


class TaskError(ValueError):
    """A prompt that cannot be asked; `field` names the part at fault: task, text or region."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the table. `wording` holds `{input}` where the text or region goes."""

    token: str
    title: str
    wording: str
    takes: Takes
    gives: Gives

    def prompt(
        self,
        text: str | None = None,
        region: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> str:
        """The words sent to the encoder.

        `region` is x1, y1, x2, y2 in pixels of a picture of `size` (width, height). White space around the text goes,
        as in Microsoft's processor; a token that is passed through keeps its text as it is.
        Raises TaskError when the task needs something that is missing, or gets what it does not take.
        """
        if self.takes is not Takes.REGION and region is not None:
            raise TaskError(f"{self.token} takes no region; leave it out", "region")
        if self.takes is not Takes.TEXT and text:
            raise TaskError(f"{self.token} takes no text; leave it out", "text")
        if self.takes is Takes.REGION:
            if region is None or size is None:
                raise TaskError(f"{self.token} needs a region: [x1, y1, x2, y2] in pixels", "region")
            check_region(region, size)
            return self.wording.format(input=locations.write(locations.quantize_points(region, *size)))
        if self.takes is Takes.TEXT:
            text = text or ""
            if self.token in TASKS:
                text = text.strip()
                if not text:
                    raise TaskError(f"{self.token} needs text: what to look for", "text")
            check_text(text)
            return self.wording.replace("{input}", text)
        return self.wording


def check_region(region: Sequence[float], size: tuple[int, int]) -> None:
    """Raises TaskError unless `region` is x1 < x2, y1 < y2 within a picture of `size` (width, height)."""
    width, height = size
    if len(region) != 4:
        raise TaskError(f"a region is four numbers, x1, y1, x2, y2 in pixels; got {len(region)}", "region")
    x1, y1, x2, y2 = region
    if not (x1 < x2 and y1 < y2):
        raise TaskError(f"the region {list(region)} is inverted or empty: it needs x1 < x2 and y1 < y2", "region")
    if not (min(x1, y1) >= 0 and x2 <= width and y2 <= height):
        raise TaskError(f"the region {list(region)} reaches outside the picture of {width}×{height} pixels", "region")


def check_text(text: str) -> None:
    """Raises TaskError when `text` holds a control token, which would break the prompt apart."""
    for token in CONTROL:
        if token in text:
            raise TaskError(f"the text holds the control token {token}; take it out", "text")


def _rows(*rows: tuple[str, str, str, Takes, Gives]) -> dict[str, Task]:
    return {row[0]: Task(*row) for row in rows}


_N, _T, _R = Takes.NOTHING, Takes.TEXT, Takes.REGION
# fmt: off
# ruff: disable[E501]
TASKS: dict[str, Task] = _rows(
    ("<CAPTION>", "Caption", "What does the image describe?", _N, Gives.TEXT),
    ("<DETAILED_CAPTION>", "Detailed caption", "Describe in detail what is shown in the image.", _N, Gives.TEXT),
    ("<MORE_DETAILED_CAPTION>", "Paragraph", "Describe with a paragraph what is shown in the image.", _N, Gives.TEXT),
    ("<OCR>", "Read text", "What is the text in the image?", _N, Gives.TEXT),
    ("<OCR_WITH_REGION>", "Read text with regions", "What is the text in the image, with regions?", _N, Gives.QUADS),
    ("<OD>", "Object detection", "Locate the objects with category name in the image.", _N, Gives.BOXES),
    ("<DENSE_REGION_CAPTION>", "Dense region captions", "Locate the objects in the image, with their descriptions.", _N, Gives.BOXES),
    ("<REGION_PROPOSAL>", "Region proposals", "Locate the region proposals in the image.", _N, Gives.BOXES),
    ("<CAPTION_TO_PHRASE_GROUNDING>", "Phrase grounding", "Locate the phrases in the caption: {input}", _T, Gives.PHRASES),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", "Referring segmentation", "Locate {input} in the image with mask", _T, Gives.POLYGONS),
    ("<REGION_TO_SEGMENTATION>", "Region to polygon", "What is the polygon mask of region {input}", _R, Gives.POLYGONS),
    ("<OPEN_VOCABULARY_DETECTION>", "Open vocabulary detection", "Locate {input} in the image.", _T, Gives.ANY),
    ("<REGION_TO_CATEGORY>", "Region to category", "What is the region {input}?", _R, Gives.TEXT),
    ("<REGION_TO_DESCRIPTION>", "Region to description", "What does the region {input} describe?", _R, Gives.TEXT),
    ("<REGION_TO_OCR>", "Region to text", "What text is in the region {input}?", _R, Gives.TEXT),
)
# ruff: enable[E501]
# fmt: on

_TOKEN = re.compile(r"<[A-Za-z][A-Za-z0-9_.-]*>")


def resolve(token: str) -> Task:
    """The task of a token; an unknown one that a fine-tuned model may know (`<VQA>`) passes through literally.

    Raises TaskError for what is no task token, and for what looks like a misspelt one of ours.
    """
    if task := TASKS.get(token):
        return task
    bare = token.strip().strip("<>").upper()
    near = difflib.get_close_matches(f"<{bare}>", TASKS, n=1, cutoff=0.85)
    hint = f" Did you mean {near[0]}?" if near else " GET /v1/tasks (or `florist tasks`) lists them."
    if near or not _TOKEN.fullmatch(token) or token in CONTROL or token in ADDED_TOKENS:
        raise TaskError(f"no such task: {token[:80]!r}.{hint}", "task")
    return Task(token, token.strip("<>"), token + "{input}", Takes.TEXT, Gives.TEXT)
