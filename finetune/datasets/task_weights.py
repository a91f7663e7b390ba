"""How often each task is trained, relative to the others.

The table has the tasks of the base models, because the seedling is pretrained with the same weights. Tasks that a
project adds have OTHER_WEIGHT.
"""

# Tasks whose answer depends most on the prompt come most often: two prompts for one image with different answers train
# a model to follow its prompt.
TASK_WEIGHTS = {
    "<OD>": 2.5, "<OCR_WITH_REGION>": 1.6, "<REGION_TO_OCR>": 1.6, "<OCR>": 1.0, "<REGION_TO_CATEGORY>": 0.8,
    "<CAPTION>": 0.8, "<DETAILED_CAPTION>": 0.8, "<MORE_DETAILED_CAPTION>": 0.8, "<DENSE_REGION_CAPTION>": 1.0,
    "<REGION_PROPOSAL>": 0.5, "<CAPTION_TO_PHRASE_GROUNDING>": 2.5, "<REFERRING_EXPRESSION_SEGMENTATION>": 2.5,
    "<REGION_TO_SEGMENTATION>": 1.5, "<OPEN_VOCABULARY_DETECTION>": 4.0, "<REGION_TO_DESCRIPTION>": 1.2,
}  # fmt: skip
OTHER_WEIGHT = 1.0  # of a task that is not in the table
