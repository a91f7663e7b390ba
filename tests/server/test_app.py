"""The import of the app."""

import subprocess
import sys

import pytest

from tests.server.helpers import ROOT

SLOW_MODULES = {"torch", "transformers", "peft", "matplotlib", "supervision", "scipy", "sqlalchemy"}


@pytest.mark.parametrize("module", ["server.app", "server.process", "server.settings", "server.cli.main"])
def test_these_modules_import_no_slow_modules(module: str) -> None:
    """The server listens before they are loaded, which takes seconds."""
    code = f"import sys, {module}; print(sorted({SLOW_MODULES} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"
