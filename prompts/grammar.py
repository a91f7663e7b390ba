"""The answer grammar: which tokens an answer consists of, and what they mean.

An answer is a sequence of labels and location tokens. Text names an object, location tokens place it. A shape without
text directly before it belongs to the latest label. `Task.answer_kind` decides which shape the locations form:

    BOXES, PHRASES      cat<loc>×4 <loc>×4 dog<loc>×4      one box per four locations
    QUADS               STOP<loc>×8                        one quad per eight locations
    POLYGONS            <loc>…<sep><loc>…                  one instance; <sep> separates its rings
                        dog<poly><loc>…</poly><poly>…      or each instance between <poly> and </poly>
    BOXES_OR_POLYGONS   dog<poly>…</poly>cat<loc>×4        with <poly>: a polygon; without: a box
    TEXT                text only

`prompts.parsing` reads this grammar, `prompts.formatting` writes it, and `server.engine.decoding.constraint` restricts
the decoder to it.
"""

from prompts.tasks import AnswerKind

RING_SEPARATOR, POLYGON_START, POLYGON_END = "<sep>", "<poly>", "</poly>"

LOCATIONS_PER_SHAPE = {
    AnswerKind.BOXES: 4,
    AnswerKind.PHRASES: 4,
    AnswerKind.BOXES_OR_POLYGONS: 4,
    AnswerKind.QUADS: 8,
}
"""How many locations form one shape without <poly>. Structure tokens end the shapes of the other kinds."""

POLYGON_KINDS = (AnswerKind.POLYGONS, AnswerKind.BOXES_OR_POLYGONS)

MIN_RING_LOCATIONS = 6
"""A ring has at least three points."""

# Source: `black_list_of_phrase_grounding` in Microsoft's processor. These phrases do not name an object in the image.
# fmt: off
FILLER_PHRASES = frozenset((
    "it", "I", "me", "mine", "you", "your", "yours", "he", "him", "his", "she", "her", "hers", "they", "them", "their",
    "theirs", "one", "oneself", "we", "us", "our", "ours", "its", "myself", "yourself", "himself", "herself", "itself",
    "ourselves", "yourselves", "themselves", "this", "that", "these", "those", "who", "whom", "whose", "which", "what",
    "all", "another", "any", "anybody", "anyone", "anything", "each", "everybody", "everyone", "everything", "few",
    "many", "nobody", "none", "several", "some", "somebody", "someone", "something", "each other", "one another",
    "image", "images", "the image", "a group", "a set", "other objects", "lots", "a", "an", "the",
))
# fmt: on
