"""The extras of florist: packages that only some users install, and the command that installs them.

The command names packages of the index, not florist: florist itself may be a checkout, a wheel or an image.
"""

import importlib.util
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path


def find_missing(extra: str) -> list[str]:
    """Returns the requirements of an extra that this environment does not meet, such as `peft>=0.17`."""
    return [requirement for requirement in _list_requirements(extra) if not _is_met(requirement)]


def describe_install(extra: str) -> str:
    """Returns the command that installs an extra, for messages: `pip install 'peft>=0.17'`. It names no folder."""
    requirements = find_missing(extra) or _list_requirements(extra)
    quoted = " ".join(f"'{requirement}'" for requirement in requirements) or f"the packages of its extra {extra!r}"
    python, bin_folder = Path(sys.executable), Path(sys.prefix) / "bin"
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install {quoted}"
    if (pip := shutil.which("pip")) and Path(pip).parent == bin_folder:
        return f"pip install {quoted}"
    if python.is_relative_to(Path.cwd()):
        return f"{python.relative_to(Path.cwd())} -m pip install {quoted}"
    return f"in florist's environment, pip install {quoted}"


def _list_requirements(extra: str) -> list[str]:
    """Returns the requirements of an extra without their markers; nothing if florist is not installed."""
    from packaging.requirements import Requirement

    try:
        parsed = [Requirement(each) for each in requires("florist") or ()]
    except PackageNotFoundError:
        return []
    chosen = []
    for each in parsed:
        if each.marker and "extra" in str(each.marker) and each.marker.evaluate({"extra": extra}):
            each.marker = None
            chosen.append(str(each))
    return chosen


def _is_met(requirement: str) -> bool:
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    try:
        return parsed.specifier.contains(version(parsed.name), prereleases=True)
    except PackageNotFoundError:
        return False
