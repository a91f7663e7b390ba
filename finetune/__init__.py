"""Adapting a model to a project: fine-tuning, evaluation, calibration and active learning."""

import os

# oneDNN builds a kernel for each shape and caches 1024 of them by default. Ten steps of a fine-tune need more, and to
# build them again takes a third of such a step. It reads the variable before its first operation.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
