"""The tokens that Florence-2 adds to BART's vocabulary, and the control tokens."""

from prompts.locations import BINS

BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
CONTROL_TOKENS = (BOS, EOS, PAD, IMAGE, "<mask>", "<unk>")

# Structure and location tokens, in the order in which the tokenizer on the hub adds them to BART's.
_STRUCTURE_BEFORE_LOCATIONS = ("<od>", "</od>", "<ocr>", "</ocr>")
LOCATION_TOKENS = tuple(f"<loc_{i}>" for i in range(BINS))
_STRUCTURE_AFTER_LOCATIONS = (
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>"),
    *("<seg>", "</seg>", "<sep>", "<region_cap>", "</region_cap>"),
    *("<region_to_desciption>", "</region_to_desciption>", "<proposal>", "</proposal>"),
    *("<poly>", "</poly>", "<and>"),
)
STRUCTURE_TOKENS = (*_STRUCTURE_BEFORE_LOCATIONS, *_STRUCTURE_AFTER_LOCATIONS)
ADDED_TOKENS = (*_STRUCTURE_BEFORE_LOCATIONS, *LOCATION_TOKENS, *_STRUCTURE_AFTER_LOCATIONS, IMAGE)
"""In the order of their ids."""
