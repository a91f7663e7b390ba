"""The mapping from the model's words to the labels of a recipe's ontology."""

from collections.abc import Mapping, Sequence

from prompts.text import normalize_words

# These words end the head of a noun phrase: in "a man in a hat", the object is a man.
# fmt: off
_PHRASE_ENDS = frozenset((
    "about", "above", "across", "against", "along", "among", "and", "around", "at", "behind", "below", "beneath",
    "beside", "between", "by", "for", "from", "holding", "in", "inside", "into", "near", "next", "of", "off", "on",
    "onto", "or", "outside", "over", "that", "through", "to", "toward", "under", "wearing", "which", "who", "with",
))
# fmt: on


def contains_words(text: str, words: str) -> bool:
    """Returns whether the text contains the words, whole and in order. No text contains empty words."""
    return bool(normalize_words(words)) and f" {normalize_words(words)} " in f" {normalize_words(text)} "


class OntologyIndex:
    """Labels by phrase."""

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        """`labels` maps each label to its phrases. No phrase belongs to two labels."""
        # Sorted, so that the order in a file does not matter.
        self.phrases = [(phrase, label) for label in sorted(labels) for phrase in labels[label]]
        self._labels: dict[str, str] = {}
        for phrase, label in self.phrases:
            self._labels.setdefault(normalize_words(phrase), label)

    def __bool__(self) -> bool:
        return bool(self.phrases)

    def find_label(self, words: str) -> str | None:
        """Returns the label for the model's words; None if no phrase matches.

        The words match a phrase that is equal, or the longest one that the head of their noun phrase ends with: "two
        red cars on a road" matches "cars".
        """
        normal = normalize_words(words)
        if normal in self._labels:
            return self._labels[normal]
        parts = normal.split()
        end = next((i for i, part in enumerate(parts) if i and part in _PHRASE_ENDS), len(parts))
        tails = (" ".join(parts[start:end]) for start in range(end))
        return next((self._labels[tail] for tail in tails if tail in self._labels), None)

    def is_same_object(self, one: str, other: str) -> bool:
        """Returns whether two names may mean the same object: they have the same label, or one contains the other
        ("cat" and "a black cat")."""
        label = self.find_label(one)
        same_label = label is not None and label == self.find_label(other)
        return same_label or contains_words(one, other) or contains_words(other, one)
