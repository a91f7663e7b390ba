"""Parses answers: tokens → annotations, one token at a time. See `prompts.grammar` for the grammar.

White space alone is not a label. The bytes of a label are joined before they are decoded, because one character may be
spread over several tokens. The corners of a box are sorted, because negative sides would break width, height and IoU.
A box thinner than one bin keeps its zero width, as in Microsoft's parser.

Scores. The location score of a shape is exp(mean log p) over its own location tokens, as in Microsoft's processor
(`Florence2PostProcesser`, microsoft/Florence-2-large, processing_florence2.py). For p, the engine adds up the
probabilities of nearby locations (`server.engine.decoding.token_selection`). The label score is exp(mean log p) over
the text tokens of the label, and 1 without a label. The score of a shape is the product of both, because naming and
locating an object can fail independently: an uncertain label should not rank as high as a certain one. Shapes that
share a label share its label score. The score of a text is its label score. The mean makes long and short labels
comparable. Control and structure tokens do not count. Every score is clamped to 1e-6 … 1 - 1e-6; NaN, from invalid log
probabilities, becomes the lowest score.
"""

import codecs
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prompts.annotations import Annotation, Box, Polygon, Quad, Text, clamp_score
from prompts.grammar import (
    FILLER_PHRASES,
    LOCATIONS_PER_SHAPE,
    MIN_RING_LOCATIONS,
    POLYGON_END,
    POLYGON_KINDS,
    POLYGON_START,
    RING_SEPARATOR,
)
from prompts.locations import dequantize_points, format_locations
from prompts.tasks import AnswerKind, Task
from prompts.text import truncate
from prompts.vocabulary import Token


@dataclass(frozen=True, slots=True)
class DroppedFragment:
    """A part of an answer that does not follow the grammar, and the reason, both in plain words."""

    what: str
    reason: str


@dataclass
class ParsedAnswer:
    """A whole answer. `text` contains location and structure tokens as strings, but no control tokens."""

    annotations: list[Annotation]
    text: str
    dropped: list[DroppedFragment] = field(default_factory=list)


def parse_answer(
    task: Task, tokens: Iterable[Token], size: tuple[int, int], logprobs: Sequence[float] | None = None
) -> ParsedAnswer:
    """Parses a whole answer to `task` about an image of `size` (width, height) in pixels.

    `logprobs`: one natural log probability per token; None means 0 for all.

    Raises ValueError when the numbers of tokens and log probabilities differ, and when `size` is not positive. No
    sequence of tokens raises an error.
    """
    tokens = list(tokens)
    if logprobs is None:
        logprobs = [0.0] * len(tokens)
    if len(logprobs) != len(tokens):
        raise ValueError(f"got {len(tokens)} tokens but {len(logprobs)} log probabilities")
    parser = AnswerParser(task, size)
    annotations: list[Annotation] = []
    for token, logprob in zip(tokens, logprobs, strict=True):
        annotations += parser.feed(token, logprob)
    annotations += parser.finish()
    return ParsedAnswer(annotations, parser.text, parser.dropped)


class _LocationToken(NamedTuple):
    location: int
    logprob: float


class _MeanProbability:
    """exp(mean log p) of the tokens so far; 1 without tokens."""

    __slots__ = ("count", "total")

    def __init__(self, logprobs: Iterable[float] = ()) -> None:
        self.total, self.count = 0.0, 0
        for logprob in logprobs:
            self.add(logprob)

    def add(self, logprob: float) -> None:
        self.total += logprob
        self.count += 1

    def compute(self) -> float:
        # A log probability is never above 0. Without min, an invalid one could overflow exp.
        return math.exp(min(self.total / self.count, 0.0)) if self.count else 1.0


class AnswerParser:
    """Parses one answer while the model generates it. No sequence of tokens raises an error.

    `dropped` lists the parts so far that do not follow the grammar.
    """

    def __init__(self, task: Task, size: tuple[int, int]) -> None:
        """`size`: (width, height) of the image in pixels. Raises ValueError unless both are positive."""
        if not (size[0] > 0 and size[1] > 0):
            raise ValueError(f"size must be a positive width and height in pixels, not {size}")
        self.dropped: list[DroppedFragment] = []
        self._kind, self._size = task.answer_kind, size
        self._shape_length = LOCATIONS_PER_SHAPE.get(task.answer_kind)
        self._allows_polygons = task.answer_kind in POLYGON_KINDS
        self._text = ""  # the answer as text
        self._completed: list[Annotation] = []  # since the last feed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._words, self._words_score = "", _MeanProbability()  # text that no location has followed yet
        self._label, self._label_score = "", 1.0  # the label of the next locations
        self._ring: list[_LocationToken] = []  # of the open box, quad or ring
        self._rings: list[list[_LocationToken]] = []  # the complete rings of the open polygon
        self._in_wrapper = False  # between <poly> and </poly>
        self._rejected: set[str] = set()  # out-of-place tokens that have been reported

    @property
    def text(self) -> str:
        """The answer so far. A character appears when all its bytes have arrived, so the text only grows at its end."""
        return self._text.strip() if self._kind is AnswerKind.TEXT else self._text

    def feed(self, token: Token, logprob: float = 0.0) -> list[Annotation]:
        """Parses the next token with its natural log probability. Returns the annotations that it completes."""
        if token.text_bytes is not None:
            self._parse_text(token.text_bytes, logprob)
        elif token.location is not None:
            self._parse_location(token.location, logprob)
        elif token.structure is not None:
            self._parse_structure(token.structure)
        return self._pop_completed()

    def finish(self) -> list[Annotation]:
        """Ends the answer. Returns the annotations that the end completes. Do not feed more tokens after it."""
        self._flush_decoder()
        words, self._words = self._words.strip(), ""
        if self._kind is AnswerKind.TEXT:
            if words:
                self._completed.append(Text(label=words, score=clamp_score(self._words_score.compute())))
        else:
            self._end_shape()
            if words:
                self._drop(f"the text {truncate(words)!r}", "no location follows it")
        return self._pop_completed()

    def _parse_text(self, text_bytes: bytes, logprob: float) -> None:
        piece = self._decoder.decode(text_bytes)
        self._text += piece
        self._words += piece
        self._words_score.add(logprob)
        if self._kind is not AnswerKind.TEXT and self._words.strip():
            self._end_label()

    def _parse_location(self, location: int, logprob: float) -> None:
        self._flush_decoder()
        self._text += format_locations([location])
        if self._kind is AnswerKind.TEXT:
            self._reject("a location", "a text answer contains only text")
            return
        self._begin_label()
        self._ring.append(_LocationToken(location, logprob))
        if not self._in_polygon() and len(self._ring) == self._shape_length:
            self._end_box_or_quad()

    def _parse_structure(self, token: str) -> None:
        self._flush_decoder()
        self._text += token
        if self._allows_polygons and token == POLYGON_START:
            self._end_shape()
            self._begin_label()
            self._in_wrapper = True
        elif self._allows_polygons and token == POLYGON_END:
            if self._in_wrapper and not self._ring and not self._rings:
                self._drop(POLYGON_START + POLYGON_END, "it contains no ring with three or more points")
            self._end_shape()
            self._in_wrapper = False
        elif self._in_polygon() and token == RING_SEPARATOR:
            self._end_ring()
        else:
            if self._kind is not AnswerKind.TEXT:
                self._end_shape()
            self._reject(token, f"it has no meaning in an answer of {self._kind}")

    def _in_polygon(self) -> bool:
        return self._allows_polygons and (self._in_wrapper or self._shape_length is None)

    def _flush_decoder(self) -> None:
        """Decodes the remaining bytes of an incomplete character."""
        rest = self._decoder.decode(b"", final=True)
        self._text += rest
        self._words += rest

    def _begin_label(self) -> None:
        """Makes the text before a location or <poly> the current label."""
        if label := self._words.strip():
            self._end_label()
            self._label, self._label_score = label, self._words_score.compute()
            if self._is_filler():
                self._drop(f"the phrase {truncate(label)!r}", "a pronoun or filler names no object in the image")
        self._words, self._words_score = "", _MeanProbability()

    def _end_label(self) -> None:
        """Ends the open shape of the previous label, and its <poly> wrapper."""
        if self._ring or self._rings:
            self._end_shape()
            self._in_wrapper = False

    def _is_filler(self) -> bool:
        return self._kind is AnswerKind.PHRASES and self._label in FILLER_PHRASES

    def _end_shape(self) -> None:
        if self._in_polygon():
            self._end_ring()
            self._end_polygon()
        elif self._ring:
            self._drop(self._describe(self._ring), f"a shape needs {self._shape_length} locations")
            self._ring = []

    def _end_ring(self) -> None:
        ring, self._ring = self._ring, []
        if len(ring) < MIN_RING_LOCATIONS:
            if ring:
                self._drop(self._describe(ring), "a ring needs three or more points")
            return
        if len(ring) % 2:
            self._drop(self._describe(ring[-1:]), "an x without its y")
            ring = ring[:-1]
        self._rings.append(ring)

    def _end_box_or_quad(self) -> None:
        ring, self._ring = self._ring, []
        if self._is_filler():
            return
        points = self._to_pixels(ring)
        score = self._compute_score(ring)
        if len(points) == 8:
            x1, y1, x2, y2, x3, y3, x4, y4 = points
            quad = Quad(label=self._label, score=score, quad=(x1, y1, x2, y2, x3, y3, x4, y4))
            self._completed.append(quad)
        else:
            xs, ys = sorted(points[::2]), sorted(points[1::2])
            self._completed.append(Box(label=self._label, score=score, box=(xs[0], ys[0], xs[1], ys[1])))

    def _end_polygon(self) -> None:
        rings, self._rings = self._rings, []
        if rings:
            score = self._compute_score([token for ring in rings for token in ring])
            polygons = [self._to_pixels(ring) for ring in rings]
            self._completed.append(Polygon(label=self._label, score=score, polygons=polygons))

    def _to_pixels(self, ring: Sequence[_LocationToken]) -> list[float]:
        return dequantize_points([token.location for token in ring], *self._size)

    def _compute_score(self, ring: Sequence[_LocationToken]) -> float:
        return clamp_score(self._label_score * _MeanProbability(token.logprob for token in ring).compute())

    def _describe(self, ring: Sequence[_LocationToken]) -> str:
        text = format_locations([token.location for token in ring])
        return f"{text} of {truncate(self._label)!r}" if self._label else text

    def _drop(self, what: str, reason: str) -> None:
        self.dropped.append(DroppedFragment(what, reason))

    def _reject(self, what: str, reason: str) -> None:
        """Reports an out-of-place token once."""
        if what not in self._rejected:
            self._rejected.add(what)
            self._drop(what, reason)

    def _pop_completed(self) -> list[Annotation]:
        completed, self._completed = self._completed, []
        return completed
