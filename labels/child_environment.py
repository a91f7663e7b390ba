"""The environment of processes that parse files of strangers."""

import os

_PASSED = {"PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TMPDIR", "LANG", "LC_ALL"}


def make_child_environment(**variables: str) -> dict[str, str]:
    """Returns what Python needs of this process's environment, without its secrets, and `variables`."""
    return {name: value for name, value in os.environ.items() if name in _PASSED} | variables
