"""Phrases found in a picture: whether the first place named is the right one."""

from collections.abc import Sequence

from finetune.evaluation.corrections import RIGHT_PLACE
from finetune.evaluation.matching import named, overlap
from labels.shapes import bounds
from prompts.annotations import Annotation


def hit(found: Sequence[Annotation], true: Sequence[Annotation]) -> bool:
    """Whether the surest place (the first of equals) has an IoU of 0.5 or more with one of the true ones: accuracy at
    0.5 of RefCOCO (Yu et al. 2016), and recall at 1 of Flickr30k Entities where any box of a phrase will do."""
    places = [note for note in found if bounds(note)]
    if not places:
        return False
    surest = max(places, key=lambda note: note.score or 0.0)
    return any(overlap(surest, note) >= RIGHT_PLACE for note in true)


def phrase_hits(found: Sequence[Annotation], true: Sequence[Annotation]) -> dict[str, bool]:
    """`hit` of each phrase of the truth, by its words."""
    phrases = dict.fromkeys(named(note.label) for note in true)
    return {
        phrase: hit([a for a in found if named(a.label) == phrase], [t for t in true if named(t.label) == phrase])
        for phrase in phrases
    }
