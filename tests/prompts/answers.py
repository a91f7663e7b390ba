"""Short names for writing answers in tests."""

from prompts.tasks import TASKS, AnswerKind

# In an image of this size, location k decodes to k + 0.5.
SIZE = (1000, 1000)
TASK_BY_KIND = {
    AnswerKind.TEXT: TASKS["<OCR>"],
    AnswerKind.BOXES: TASKS["<OD>"],
    AnswerKind.PHRASES: TASKS["<CAPTION_TO_PHRASE_GROUNDING>"],
    AnswerKind.QUADS: TASKS["<OCR_WITH_REGION>"],
    AnswerKind.POLYGONS: TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"],
    AnswerKind.BOXES_OR_POLYGONS: TASKS["<OPEN_VOCABULARY_DETECTION>"],
}

A, B, C, D = (1, 2, 3, 4), (5, 6, 7, 8), (11, 12, 13, 14), (15, 16, 17, 18)
RING, RING2 = (1, 2, 3, 4, 5, 6), (21, 22, 23, 24, 25, 26, 27, 28)


def locs(*bins):
    return "".join(f"<loc_{k}>" for k in bins)
