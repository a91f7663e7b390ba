"""The table of tasks: the token, the prompt text, the input and the kind of answer of each.

Source: Microsoft's Florence2Processor (task_prompts_*, tasks_answer_post_processing_type) and the model card.

To add a task, add a row to `TASKS`, not to `FLORENCE_TASKS`: its token, a title, the prompt text with `{input}` where
the input goes, what input it needs, which grammar its answer follows, and where it has names of classes, if anywhere.
The HTTP API, the command line, recipes, constrained decoding and fine-tuning on a dataset's own samples read the table.
A new kind of answer needs a new `AnswerKind` and its grammar in `prompts.grammar`.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from prompts import locations
from prompts.special_tokens import ADDED_TOKENS, CONTROL_TOKENS

_ROUNDING = 0.01  # pixels by which coordinates may be wrong after a conversion


class InputKind(StrEnum):
    """What a prompt needs in addition to the image."""

    NOTHING = "nothing"
    TEXT = "text"
    REGION = "region"


class AnswerKind(StrEnum):
    """The grammar of an answer. See `prompts.grammar`."""

    TEXT = "text"
    BOXES = "boxes"  # a label, then one or more groups of four locations
    PHRASES = "phrases"  # boxes whose labels are phrases of the prompt
    QUADS = "quads"  # recognized text, then eight locations
    POLYGONS = "polygons"  # rings of locations: <sep> between rings, <poly> around instances
    BOXES_OR_POLYGONS = "boxes or polygons"  # a label, then either


class ClassUse(StrEnum):
    """Where a prompt has names of classes. Elsewhere labels are phrases or free text."""

    NOWHERE = "nowhere"
    ANSWER = "answer"  # its labels
    TEXT = "text"  # several can be asked for, one by one: see `prompts.class_texts`


class PromptError(ValueError):
    """The model cannot be prompted like this. `field` names the invalid part: task, text or region."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the table. `template` is the prompt text, with `{input}` where the text or region goes."""

    token: str
    title: str
    template: str
    input_kind: InputKind
    answer_kind: AnswerKind
    class_use: ClassUse = ClassUse.NOWHERE

    @property
    def answers_classes(self) -> bool:
        """Whether the labels of its answers are names of classes, which a class list can hold."""
        return self.class_use is ClassUse.ANSWER

    @property
    def takes_classes(self) -> bool:
        """Whether its text is a class, so that several can be asked for, one by one."""
        return self.class_use is ClassUse.TEXT

    def build_prompt(
        self,
        text: str | None = None,
        region: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> str:
        """Returns the text for the encoder.

        `region` is x1, y1, x2, y2 in pixels of an image of `size` (width, height). Strips white space around the
        text, as Microsoft's processor does. Tokens that are not in the table keep their text unchanged.

        Raises PromptError when a required input is missing, or the task does not accept an input.
        """
        if self.input_kind is not InputKind.REGION and region is not None:
            raise PromptError(f"{self.token} takes no region; leave it out", "region")
        if self.input_kind is not InputKind.TEXT and text:
            raise PromptError(f"{self.token} takes no text; leave it out", "text")
        if self.input_kind is InputKind.REGION:
            if region is None or size is None:
                raise PromptError(f"{self.token} needs a region: [x1, y1, x2, y2] in pixels", "region")
            check_region(region, size)
            bins = locations.quantize_points(region, *size)
            return self.template.format(input=locations.format_locations(bins))
        if self.input_kind is InputKind.TEXT:
            text = text or ""
            if self.token in TASKS:
                text = text.strip()
                if not text:
                    raise PromptError(f"{self.token} needs text: what to look for", "text")
            check_text(text)
            return self.template.replace("{input}", text)
        return self.template


def check_region(region: Sequence[float], size: tuple[int, int]) -> None:
    """Raises PromptError unless `region` is x1 < x2, y1 < y2 inside an image of `size` (width, height).

    It may reach beyond the border by a rounding error, which its location tokens do not have.
    """
    width, height = size
    if len(region) != 4:
        raise PromptError(f"a region is four numbers, x1, y1, x2, y2 in pixels; got {len(region)}", "region")
    x1, y1, x2, y2 = region
    if not (x1 < x2 and y1 < y2):
        raise PromptError(f"the region {list(region)} is inverted or empty: it needs x1 < x2 and y1 < y2", "region")
    if not (min(x1, y1) >= -_ROUNDING and x2 <= width + _ROUNDING and y2 <= height + _ROUNDING):
        raise PromptError(f"the region {list(region)} reaches outside the image of {width}×{height} pixels", "region")


def check_region_size(region: Sequence[float]) -> None:
    """Raises PromptError for a region that a person sends if it is smaller than a pixel: probably it is a mistake."""
    if len(region) == 4 and (0 < region[2] - region[0] < 1 or 0 < region[3] - region[1] < 1):
        message = f"the region {list(region)} is smaller than a pixel: regions are pixels, not fractions of the image"
        raise PromptError(message, "region")


def check_text(text: str) -> None:
    """Raises PromptError when `text` contains a control token, which would split the prompt."""
    for token in CONTROL_TOKENS:
        if token in text:
            raise PromptError(f"the text contains the control token {token}; remove it", "text")


_Row = tuple[str, str, str, InputKind, AnswerKind]


def _build_table(*rows: _Row | tuple[str, str, str, InputKind, AnswerKind, ClassUse]) -> dict[str, Task]:
    return {row[0]: Task(*row) for row in rows}


_N, _T, _R = InputKind.NOTHING, InputKind.TEXT, InputKind.REGION
_A = AnswerKind
_C = ClassUse
# fmt: off
# ruff: disable[E501]
FLORENCE_TASKS: dict[str, Task] = _build_table(
    ("<CAPTION>", "Caption", "What does the image describe?", _N, _A.TEXT),
    ("<DETAILED_CAPTION>", "Detailed caption", "Describe in detail what is shown in the image.", _N, _A.TEXT),
    ("<MORE_DETAILED_CAPTION>", "Paragraph", "Describe with a paragraph what is shown in the image.", _N, _A.TEXT),
    ("<OCR>", "Read text", "What is the text in the image?", _N, _A.TEXT),
    ("<OCR_WITH_REGION>", "Read text with regions", "What is the text in the image, with regions?", _N, _A.QUADS),
    ("<OD>", "Object detection", "Locate the objects with category name in the image.", _N, _A.BOXES, _C.ANSWER),
    ("<DENSE_REGION_CAPTION>", "Dense region captions", "Locate the objects in the image, with their descriptions.", _N, _A.BOXES),
    ("<REGION_PROPOSAL>", "Region proposals", "Locate the region proposals in the image.", _N, _A.BOXES),
    ("<CAPTION_TO_PHRASE_GROUNDING>", "Phrase grounding", "Locate the phrases in the caption: {input}", _T, _A.PHRASES),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", "Referring segmentation", "Locate {input} in the image with mask", _T, _A.POLYGONS),
    ("<REGION_TO_SEGMENTATION>", "Region to polygon", "What is the polygon mask of region {input}", _R, _A.POLYGONS),
    ("<OPEN_VOCABULARY_DETECTION>", "Open vocabulary detection", "Locate {input} in the image.", _T, _A.BOXES_OR_POLYGONS, _C.TEXT),
    ("<REGION_TO_CATEGORY>", "Region to category", "What is the region {input}?", _R, _A.TEXT, _C.ANSWER),
    ("<REGION_TO_DESCRIPTION>", "Region to description", "What does the region {input} describe?", _R, _A.TEXT),
    ("<REGION_TO_OCR>", "Region to text", "What text is in the region {input}?", _R, _A.TEXT),
)
"""The tasks of Microsoft's models, with Microsoft's prompts. The seedling is made with these and no others."""

TASKS: dict[str, Task] = FLORENCE_TASKS | _build_table()  # a new task is a row here
# ruff: enable[E501]
# fmt: on

UNLABELED_TASK = "<REGION_PROPOSAL>"
"""The task whose boxes have no labels."""

TASK_TOKEN_PATTERN = re.compile(r"<[A-Za-z][A-Za-z0-9_.-]*>")
_SIMILAR = 0.85  # of a token to one of the table: it is misspelled
_RELATED = 0.75  # of the words of a token to those of a task: it may be meant
_WORD = re.compile("[a-z]+")


def find_task(token: str) -> Task:
    """Returns the task of a token.

    A token that is not in the table, such as `<VQA>`, may belong to a fine-tuned model. Its task passes the token and
    the text to the model unchanged, and its answer is text. A model that does not know the token answers something
    else, so warn with `describe_unknown_token` unless the model's files name it.

    Raises PromptError when `token` is not a task token, or looks like a misspelled token of the table.
    """
    if task := TASKS.get(token):
        return task
    bare = token.strip().strip("<>").upper()
    similar = difflib.get_close_matches(f"<{bare}>", TASKS, n=1, cutoff=_SIMILAR)
    hint = f" Did you mean {similar[0]}?" if similar else " GET /v1/tasks (or `florist tasks`) lists them."
    if similar or not TASK_TOKEN_PATTERN.fullmatch(token) or token in CONTROL_TOKENS or token in ADDED_TOKENS:
        raise PromptError(f"no such task: {token[:80]!r}.{hint}", "task")
    return Task(token, token.strip("<>"), token + "{input}", InputKind.TEXT, AnswerKind.TEXT)


def find_nearest_task(token: str) -> Task | None:
    """Returns the task whose token, title and prompt have the words of a token, such as `<OD>` for `<DETECT>`."""
    words = _WORD.findall(token.lower())
    if not words:
        return None
    scores = {task.token: _compare_words(words, task) for task in TASKS.values()}
    best = max(scores, key=scores.__getitem__)  # of equal ones the first of the table, which is the most usual
    return TASKS[best] if scores[best] >= _RELATED else None


def describe_unknown_token(token: str) -> str:
    """Returns the warning about a token that is neither in the table nor named by the files of the model."""
    nearest = find_nearest_task(token)
    hint = f"did you mean {nearest.token} ({nearest.title.lower()})?" if nearest else "GET /v1/tasks lists the tasks"
    return f"{token} is no task of this model, which reads it as plain text and may answer anything; {hint}"


def _compare_words(words: Sequence[str], task: Task) -> float:
    """Returns how well each of the words is found in a task: 1 if all are, or begin one of its words."""
    own = _WORD.findall(f"{task.token} {task.title} {task.template}".lower())
    return sum(max(_compare_word(word, each) for each in own) for word in words) / len(words)


def _compare_word(word: str, other: str) -> float:
    if min(len(word), len(other)) < 4:
        return float(word == other)
    if other.startswith(word):
        return 1.0
    return difflib.SequenceMatcher(None, word, other).ratio()
