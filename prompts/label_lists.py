"""The limits of lists of labels that people send: in constraints, and as the ontology of a recipe.

A list is compiled for the tokenizer before the first prompt uses it, so its size bounds what one request can cost. The
limits hold every published list of classes that a model can be asked for at once: LVIS has 1,203 classes in 15 kB.
"""

from collections.abc import Collection

from prompts.text import truncate

MAX_LABELS = 2000
MAX_LABEL_BYTES = 512
"""Of one label in UTF-8: a name or a phrase, not a text."""
MAX_LIST_BYTES = 64 * 1024
"""Of all labels of a list together, in UTF-8."""


class LabelListError(ValueError):
    """A list of labels is too large. The message names the limit."""


def check_label_list(labels: Collection[str], noun: str = "labels") -> None:
    """Raises LabelListError for a list above the limits. `noun`: what the list holds, in the plural, for the error."""
    if len(labels) > MAX_LABELS:
        raise LabelListError(f"there are {len(labels):,} {noun}; the limit is {MAX_LABELS:,}, so send fewer")
    total = 0
    for label in labels:
        size = measure_label(label)
        total += size
        if size > MAX_LABEL_BYTES:
            raise LabelListError(
                f"{truncate(label, 40)!r} has {size:,} bytes; the limit of one of the {noun} is {MAX_LABEL_BYTES:,}"
            )
    if total > MAX_LIST_BYTES:
        raise LabelListError(
            f"all {noun} together have {total:,} bytes; the limit is {MAX_LIST_BYTES:,}, so send fewer or shorter ones"
        )


def measure_label(label: str) -> int:
    """Returns the size of a label in UTF-8, in bytes. Half a character (a lone surrogate) counts as three."""
    return len(label.encode(errors="surrogatepass"))
