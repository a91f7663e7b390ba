"""The import of the app."""

import subprocess
import sys

import pytest

from tests.server.helpers import ROOT


@pytest.mark.parametrize("module", ["server.app", "server.process", "server.settings", "server.cli.main"])
def test_these_modules_do_not_import_torch(module: str) -> None:
    """The server listens before torch is loaded, which takes seconds."""
    code = f"""
import sys
import {module}
print([name for name in ("torch", "transformers", "peft", "matplotlib", "supervision", "scipy") if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"
