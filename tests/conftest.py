"""What all tests share."""

# Imported whole before any test: an import of it that is broken off (several packages try to, and do without) leaves
# its C part in the old module, and the next one lacks it.
import pandas  # noqa: F401
