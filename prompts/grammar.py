"""The answer grammar, read: tokens → annotations, one token at a time.

An answer is labels and locations in turn. Letters name; locations place; what is placed without letters of its own
belongs to the latest label. Which shape the locations make is the task's (`Task.gives`):

    boxes, phrases   cat<loc>×4 <loc>×4 dog<loc>×4      a box every four locations
    quads            STOP<loc>×8                        a quad every eight
    polygons         <loc>…<sep><loc>…                  one instance, its rings parted by <sep>
                     dog<poly><loc>…</poly><poly>…      or each instance in a wrapper
    either           dog<poly>…</poly>cat<loc>×4        wrapped: a polygon; bare: a box
    text             letters alone

White space alone is no label. Labels are joined as bytes before they are decoded, since one letter may span tokens.
A box whose corners come in the wrong order is set upright: it is the same rectangle, and negative sides break every
consumer's width, height and IoU. A box thinner than one bin keeps its zero width, as in Microsoft's reader.

Scores. A location score is exp(mean log p) over the shape's own location tokens: the score of Microsoft's processor
(`Florence2PostProcesser`, microsoft/Florence-2-large, processing_florence2.py), which judges the placing alone. The
engine's p of a location is that of the place, give or take 1 % of the side (`server.engine.decoding.decoder.certainties`). A
label score is exp(mean log p) over the label's letter tokens, 1 where there is no label. A shape's score is their
product: naming and placing are two separate ways to be wrong, and a label that is a coin toss should not rank as
high as a sure one. Shapes that share a label share its factor. A text's score is its label score. The mean makes
long and short labels comparable. Control and structure tokens count for nothing. Every score is clamped to
1e-6 … 1 - 1e-6.
"""

import codecs
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prompts import locations
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import Gives, Task
from prompts.vocabulary import Token

SEPARATOR, WRAP, UNWRAP = "<sep>", "<poly>", "</poly>"
# Phrases that Microsoft's processor leaves out of a grounding (its black_list_of_phrase_grounding): there is nothing
# in the picture that they name.
# fmt: off
FILLERS = frozenset((
    "it", "I", "me", "mine", "you", "your", "yours", "he", "him", "his", "she", "her", "hers", "they", "them", "their",
    "theirs", "one", "oneself", "we", "us", "our", "ours", "its", "myself", "yourself", "himself", "herself", "itself",
    "ourselves", "yourselves", "themselves", "this", "that", "these", "those", "who", "whom", "whose", "which", "what",
    "all", "another", "any", "anybody", "anyone", "anything", "each", "everybody", "everyone", "everything", "few",
    "many", "nobody", "none", "several", "some", "somebody", "someone", "something", "each other", "one another",
    "image", "images", "the image", "a group", "a set", "other objects", "lots", "a", "an", "the",
))
# fmt: on

# How many bare locations make a shape; polygons end by their structure tokens instead.
_CORNERS = {Gives.BOXES: 4, Gives.PHRASES: 4, Gives.ANY: 4, Gives.QUADS: 8}
_RINGED = (Gives.POLYGONS, Gives.ANY)
_LOWEST = 1e-6


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something in an answer that the reader could not use, and why; both in plain words."""

    what: str
    reason: str


@dataclass
class Answer:
    """A whole answer, read. `text` holds location and structure tokens written out, and no control tokens."""

    annotations: list[Annotation]
    text: str
    dropped: list[Dropped] = field(default_factory=list)


def read(task: Task, tokens: Iterable[Token], size: tuple[int, int], logprobs: Sequence[float] | None = None) -> Answer:
    """Reads a whole answer to `task` about a picture of `size` (width, height) in pixels.

    `logprobs`: one natural log probability a token, 0 where None. Raises ValueError when their number differs from
    the tokens', and for a size that is not positive; never for what the tokens say.
    """
    tokens = list(tokens)
    if logprobs is None:
        logprobs = [0.0] * len(tokens)
    if len(logprobs) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens came with {len(logprobs)} log probabilities")
    parser = AnswerParser(task, size)
    annotations: list[Annotation] = []
    for token, logprob in zip(tokens, logprobs, strict=True):
        annotations += parser.feed(token, logprob)
    annotations += parser.finish()
    return Answer(annotations, parser.text, parser.dropped)


class _Score:
    """exp(mean log p) of the tokens so far; 1 of none."""

    __slots__ = ("count", "total")

    def __init__(self, logprobs: Iterable[float] = ()) -> None:
        self.total, self.count = 0.0, 0
        for logprob in logprobs:
            self.add(logprob)

    def add(self, logprob: float) -> None:
        self.total += logprob
        self.count += 1

    def value(self) -> float:
        # A log probability is never above 0: without min, a faulty one could overflow exp.
        return math.exp(min(self.total / self.count, 0.0)) if self.count else 1.0


class AnswerParser:
    """Reads one answer as it is generated. No sequence of tokens makes it raise.

    `dropped` grows with what could not be used.
    """

    def __init__(self, task: Task, size: tuple[int, int]) -> None:
        """`size`: (width, height) of the picture in pixels. Raises ValueError unless both are positive."""
        if not (size[0] > 0 and size[1] > 0):
            raise ValueError(f"size must be a positive width and height in pixels, not {size}")
        self.dropped: list[Dropped] = []
        self._gives, self._size = task.gives, size
        self._corners = _CORNERS.get(task.gives)
        self._ringed = task.gives in _RINGED
        self._said = ""  # the answer as text
        self._closed: list[Annotation] = []  # since the last feed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._word, self._word_score = "", _Score()  # letters that no location has followed yet
        self._label, self._label_score = "", 1.0  # what the coming locations belong to
        self._ring: list[tuple[int, float]] = []  # (bin, log p) of the open box, quad or ring
        self._rings: list[list[tuple[int, float]]] = []  # the closed rings of the open polygon
        self._wrapped = False  # between <poly> and </poly>
        self._foreign: set[str] = set()  # tokens out of place that have been reported

    @property
    def text(self) -> str:
        """The answer so far; a letter shows once all its bytes are there, so the text only grows at its end."""
        return self._said.strip() if self._gives is Gives.TEXT else self._said

    def feed(self, token: Token, logprob: float = 0.0) -> list[Annotation]:
        """Takes the next token with its natural log probability; returns the annotations that it closed."""
        if token.letters is not None:
            self._hear(token.letters, logprob)
        elif token.location is not None:
            self._place(token.location, logprob)
        elif token.structure is not None:
            self._arrange(token.structure)
        return self._take()

    def finish(self) -> list[Annotation]:
        """Ends the answer, after which nothing is fed; returns the annotations that the end closed."""
        self._flush()
        word, self._word = self._word.strip(), ""
        if self._gives is Gives.TEXT:
            if word:
                self._emit(Text(label=word, score=_clamp(self._word_score.value())))
        else:
            self._end_shape()
            if word:
                self._drop(f"the text {_short(word)}", "no location follows it")
        return self._take()

    def _hear(self, letters: bytes, logprob: float) -> None:
        piece = self._decoder.decode(letters)
        self._said += piece
        self._word += piece
        self._word_score.add(logprob)
        if self._gives is not Gives.TEXT and self._word.strip():
            self._end_naming()

    def _place(self, location: int, logprob: float) -> None:
        self._flush()
        self._said += locations.write([location])
        if self._gives is Gives.TEXT:
            self._reject("a location", "a text answer holds letters only")
            return
        self._name()
        self._ring.append((location, logprob))
        if not self._in_polygon() and len(self._ring) == self._corners:
            self._close_corners()

    def _arrange(self, token: str) -> None:
        self._flush()
        self._said += token
        if self._ringed and token == WRAP:
            self._end_shape()
            self._name()
            self._wrapped = True
        elif self._ringed and token == UNWRAP:
            if self._wrapped and not self._ring and not self._rings:
                self._drop(WRAP + UNWRAP, "no ring with three or more points is in it")
            self._end_shape()
            self._wrapped = False
        elif self._in_polygon() and token == SEPARATOR:
            self._end_ring()
        else:
            if self._gives is not Gives.TEXT:
                self._end_shape()
            self._reject(token, f"it has no meaning in an answer of {self._gives}")

    def _in_polygon(self) -> bool:
        return self._ringed and (self._wrapped or self._corners is None)

    def _flush(self) -> None:
        """Decodes what is left of a letter that was cut short."""
        rest = self._decoder.decode(b"", final=True)
        self._said += rest
        self._word += rest

    def _end_naming(self) -> None:
        """A new label began: what the old one placed is over, and so is a wrapper that held some of it."""
        if self._ring or self._rings:
            self._end_shape()
            self._wrapped = False

    def _name(self) -> None:
        """The letters before a location or wrapper become the label in force."""
        if label := self._word.strip():
            self._end_naming()
            self._label, self._label_score = label, self._word_score.value()
            if self._filler():
                self._drop(f"the phrase {_short(label)}", "a pronoun or filler names nothing in the picture")
        self._word, self._word_score = "", _Score()

    def _filler(self) -> bool:
        return self._gives is Gives.PHRASES and self._label in FILLERS

    def _end_shape(self) -> None:
        if self._in_polygon():
            self._end_ring()
            self._close_polygon()
        elif self._ring:
            self._drop(self._written(self._ring), f"they are fewer than the {self._corners} locations of a shape")
            self._ring = []

    def _end_ring(self) -> None:
        ring, self._ring = self._ring, []
        if len(ring) < 6:
            if ring:
                self._drop(self._written(ring), "a ring needs three points or more")
            return
        if len(ring) % 2:
            self._drop(self._written(ring[-1:]), "an x without its y")
            ring = ring[:-1]
        self._rings.append(ring)

    def _close_corners(self) -> None:
        ring, self._ring = self._ring, []
        if self._filler():
            return
        points = self._pixels(ring)
        score = self._score(ring)
        if len(points) == 8:
            x1, y1, x2, y2, x3, y3, x4, y4 = points
            self._emit(Quad(label=self._label, score=score, quad=(x1, y1, x2, y2, x3, y3, x4, y4)))
        else:
            xs, ys = sorted(points[::2]), sorted(points[1::2])
            self._emit(Box(label=self._label, score=score, box=(xs[0], ys[0], xs[1], ys[1])))

    def _close_polygon(self) -> None:
        rings, self._rings = self._rings, []
        if rings:
            score = self._score([place for ring in rings for place in ring])
            self._emit(Polygon(label=self._label, score=score, polygons=[self._pixels(ring) for ring in rings]))

    def _pixels(self, ring: list[tuple[int, float]]) -> list[float]:
        return locations.dequantize_points([location for location, _ in ring], *self._size)

    def _score(self, ring: list[tuple[int, float]]) -> float:
        return _clamp(self._label_score * _Score(logprob for _, logprob in ring).value())

    def _written(self, ring: list[tuple[int, float]]) -> str:
        written = locations.write([location for location, _ in ring])
        return f"{written} of {_short(self._label)}" if self._label else written

    def _drop(self, what: str, reason: str) -> None:
        self.dropped.append(Dropped(what, reason))

    def _reject(self, what: str, reason: str) -> None:
        if what not in self._foreign:
            self._foreign.add(what)
            self._drop(what, reason)

    def _emit(self, annotation: Annotation) -> None:
        self._closed.append(annotation)

    def _take(self) -> list[Annotation]:
        closed, self._closed = self._closed, []
        return closed


def _clamp(score: float) -> float:
    # Written so that NaN, from faulty log probabilities, comes out as the lowest score.
    return min(score, 1 - _LOWEST) if score > _LOWEST else _LOWEST


def _short(words: str) -> str:
    return repr(words if len(words) <= 60 else words[:59] + "…")
