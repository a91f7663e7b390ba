"""What the model says → what the project calls it."""

import re
from collections.abc import Mapping, Sequence

# Where a noun phrase's head has ended: in "a man in a hat", the thing is a man.
# fmt: off
_JOINTS = frozenset((
    "about", "above", "across", "against", "along", "among", "and", "around", "at", "behind", "below", "beneath",
    "beside", "between", "by", "for", "from", "holding", "in", "inside", "into", "near", "next", "of", "off", "on",
    "onto", "or", "outside", "over", "that", "through", "to", "toward", "under", "wearing", "which", "who", "with",
))
# fmt: on
_ARTICLES = frozenset(("a", "an", "the"))
_EDGES = re.compile(r"^\W+|\W+$")


def normal(words: str) -> str:
    """Words as they are compared: no case, no articles before them, no punctuation around them, single spaces."""
    parts = [part for part in (_EDGES.sub("", part) for part in words.casefold().split()) if part]
    while len(parts) > 1 and parts[0] in _ARTICLES:
        parts.pop(0)
    return " ".join(parts)


class Ontology:
    """Project labels by phrase."""

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        """`labels`: project label → its phrases. No phrase is under two."""
        # By label, so that the order in which a file has them changes nothing.
        self.phrases = [(phrase, label) for label in sorted(labels) for phrase in labels[label]]
        self._labels: dict[str, str] = {}
        for phrase, label in self.phrases:
            self._labels.setdefault(normal(phrase), label)

    def __bool__(self) -> bool:
        return bool(self.phrases)

    def label(self, words: str) -> str | None:
        """The project's label for what the model says: words that are a phrase, or whose head ends with the longest
        one ("two red cars on a road": cars). None where there is no such phrase."""
        said = normal(words)
        if said in self._labels:
            return self._labels[said]
        parts = said.split()
        end = next((i for i, part in enumerate(parts) if i and part in _JOINTS), len(parts))
        tails = (" ".join(parts[start:end]) for start in range(end))
        return next((self._labels[tail] for tail in tails if tail in self._labels), None)


def agree(ontology: Ontology, one: str, other: str) -> bool:
    """Whether two answers name one thing: by the ontology, or where one says the other ("cat" and "a black cat")."""
    label = ontology.label(one)
    return (label is not None and label == ontology.label(other)) or says(one, other) or says(other, one)


def says(text: str, words: str) -> bool:
    """Whether the words are in the text, whole and in their order; no words are in none."""
    return bool(normal(words)) and f" {normal(words)} " in f" {normal(text)} "
