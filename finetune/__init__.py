"""Teaching models: datasets, training, evaluation, calibration."""

import os

# oneDNN makes a kernel for each shape that is multiplied, and keeps 1024 unless told otherwise before the first one.
# Ten steps of a fine-tune take more, and to make them anew is a third of such a step.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
