"""Names of adapters and of their files. Imports no torch."""

import re

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
"""In order of preference."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
"""Also the name of the adapter's folder. Names that start with a dot are reserved for temporary folders."""
NAME_RULE = "a name has up to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit"
