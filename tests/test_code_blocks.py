"""The code blocks of README and docs, which a reader runs in order: `make test-docs` does, in a copy of the code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seedling.scenes.drawing import draw_scene
from tests.server.helpers import find_free_port

ROOT = Path(__file__).parents[1]
GUIDES = (
    "label-a-folder",
    "write-a-recipe",
    "ask-over-http",
    "fine-tune",
    "adapters",
    "project-loop",
    "deploy",
    "scale-out",
)
PAGES = ("README.md", "docs/quickstart.md", *(f"docs/guides/{name}.md" for name in GUIDES))
"""In the order of a reader."""

SKIPPED = {
    "make test": "it runs these tests",
    "git clone": "the copy is the clone",
    "make wheel": "tests/test_wheel.py builds it",
    "python3 -m venv my/venv": "tests/test_wheel.py installs the wheel",
    "my/venv/bin/": "tests/test_wheel.py installs the wheel",
    "docker ": "there is no Docker engine",
    "pip install -e": "Ray is about 200 MB; `make test-ray` uses it",
    "ray start": "one machine has no cluster",
    "export FLORIST_DATABASE_URL": "there is no such database",
    "florist label s3://": "there is no such bucket",
    "serve run": "it needs Ray; `make test-ray` runs it",
    "florist evaluate florence-community/Florence-2-base-ft my/coco": "it needs the images of COCO",
}
"""Beginnings of lines that are not run, with the reason."""

SHORTER = (
    ("florence-community/Florence-2-base-ft", "seedling"),  # there is no hub
    (r"(florist tune (?:[^\n#]*[^\n# ])?)(?= *(?:#|$))", r"\1 --steps 2 --keep --no-forgetting || [ $? = 3 ]"),
    (r'"steps": 200', '"steps": 2, "frozen_stages": 4, "metric": "loss", "keep": true'),
    (r"""(\$project/backtests .*'\$model')\}""", r'\1, "forgetting_images": 2}'),
    (r"""(\$project/promote .*'\$model')\}""", r'\1, "forced": true, "reason": "two steps win no backtest"}'),
)
"""What takes minutes or needs the internet, and what runs in its place."""

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_SHELL = """set -euo pipefail
curl() {
  case " $* " in *" -sf "*) command curl "$@" ;; *) command curl --fail-with-body --no-progress-meter "$@" ;; esac
}
"""


@dataclass(frozen=True)
class CodeBlock:
    """A code block. `line` is that of its first line in the page."""

    page: str
    line: int
    language: str
    text: str


def read_blocks(page: str) -> list[CodeBlock]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        CodeBlock(page, text.count("\n", 0, match.start(3)) + 1, match[2], match[3]) for match in _FENCE.finditer(text)
    ]


def list_commands(block: CodeBlock) -> list[str]:
    """Returns the lines of a block of shell commands, continued ones joined."""
    return block.text.replace("\\\n", " ").splitlines()


SHELL_BLOCKS = [block for page in PAGES for block in read_blocks(page) if block.language == "sh"]
ids = [f"{block.page}:{block.line}" for block in SHELL_BLOCKS]


def test_all_pages_with_commands_are_run() -> None:
    found = {path.stem for path in (ROOT / "docs" / "guides").glob("*.md")}
    assert found == set(GUIDES)


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=ids)
def test_a_block_is_a_valid_script(block: CodeBlock) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert checked.stderr == ""
    assert not re.search(r"<[\w-]+>(?!')|=…", re.sub(r"'[^']*'|\"[^\"]*\"", "", block.text)), (
        "a shell runs placeholders"
    )
    for body in re.findall(r"-d '(\{.*\})'", block.text):
        json.loads(re.sub(r"'\$\w+'?", "1", body).replace("'", ""))


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=ids)
def test_no_command_of_a_block_changes_the_environment_of_the_checkout(block: CodeBlock) -> None:
    """`pip install '.[heic]'` replaces an editable install."""
    for line in list_commands(block):
        assert not re.search(r"(?<!my/venv/bin/)pip install (?!-e )", line), line


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=ids)
def test_a_block_that_starts_a_server_waits_for_it(block: CodeBlock) -> None:
    lines = list_commands(block)
    for number, line in enumerate(lines):
        if re.search(r"serve\b.*&\s*(#|$)", line):
            assert lines[number + 1].startswith("until curl -sf localhost:8000/readyz"), line


@pytest.mark.parametrize("page", PAGES[:2])
def test_commands_are_found_before_the_environment_is_activated(page: str) -> None:
    commands = [line for block in SHELL_BLOCKS if block.page == page for line in list_commands(block)]
    for line in commands[: next((i for i, line in enumerate(commands) if "activate" in line), None)]:
        assert not re.match(r"(florist|python|pip)\b", line), f"write .venv/bin/: {line}"


def test_every_skipped_command_is_in_a_block() -> None:
    lines = [line for block in SHELL_BLOCKS for line in list_commands(block)]
    assert [start for start in SKIPPED if not any(line.startswith(start) for line in lines)] == []


@dataclass
class Reader:
    """Runs the blocks of pages in a copy of the checkout, with an environment and data of its own."""

    folder: Path
    port: int = field(default_factory=find_free_port)
    groups: list[int] = field(default_factory=list)

    def run(self, page: str) -> None:
        """Runs the blocks of a page in one shell. Fails with the block, and with the end of the output."""
        script = self.folder / "page.sh"
        script.write_text(self._write_script(page))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("FLORIST_", "VIRTUAL"))
        }
        environment |= {"FLORIST_PORT": str(self.port), "FLORIST_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        environment["FLORIST_URL"] = f"http://localhost:{self.port}"  # for examples/
        with (self.folder / "page.log").open("wb") as log:
            shell = subprocess.Popen(
                ["bash", str(script)], cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.groups.append(shell.pid)  # the server goes on for the next page
        code = shell.wait(900)
        output = (self.folder / "page.log").read_text(errors="replace")
        assert code == 0, output[output.rfind("=== ") :][-4000:]

    def _write_script(self, page: str) -> str:
        parts = [_SHELL]
        if page not in PAGES[:2]:  # the quickstart says so
            parts.append("set +u; source .venv/bin/activate; set -u")
        for block in read_blocks(page):
            parts.append(f"echo '=== {block.page}:{block.line}'")
            text = block.text.replace("localhost:8000", f"localhost:{self.port}")
            if block.language == "sh":
                parts += map(self._shorten, text.replace("\\\n", " ").splitlines())
            elif block.language == "python":
                (self.folder / f"block-{block.line}.py").write_text(text)
                parts.append(f"python block-{block.line}.py")
            elif block.language == "yaml" and (name := re.match(r"name: (\w+)\n", text)):
                (self.folder / f"{name[1]}.yaml").write_text(text)
        return "\n".join(parts) + "\n"

    def _shorten(self, line: str) -> str:
        if any(line.startswith(start) for start in SKIPPED):
            return f"# {line}"
        for pattern, replacement in SHORTER:
            line = re.sub(pattern, replacement, line)
        return line

    def close(self) -> None:
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def copy_checkout(folder: Path) -> None:
    """Copies what git knows, and makes an environment that finds the copy and the libraries of this one."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    environment = folder / ".venv"
    venv.create(environment, symlinks=True)
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    (site_packages / "copy.pth").write_text(f"{folder}\n{sysconfig.get_paths()['purelib']}\n")
    script = environment / "bin" / "florist"
    script.write_text(f"#!{environment}/bin/python\nfrom server.cli.main import app\n\napp()\n")
    script.chmod(0o755)
    for installed in ("serve", "dev"):  # make installs nothing
        (environment / installed).touch()


def draw_dataset(folder: Path, seeds: range) -> None:
    """Draws scenes with their boxes, as COCO."""
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    for seed in seeds:
        scene = draw_scene(seed, objects=(2, 4), words=(0, 1))
        scene.image.save(folder / "images" / f"{seed}.png")
        images.append(
            {"id": seed, "file_name": f"{seed}.png", "width": scene.image.width, "height": scene.image.height}
        )
        for each in scene.objects:
            if each.category not in names:
                names.append(each.category)
            x1, y1, x2, y2 = each.box
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": names.index(each.category)}
            annotations.append({"id": len(annotations), "image_id": seed, **box})
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader with images and labels of their own in `my/`."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_checkout(folder)
    for name, seeds in (("corrected", range(100, 112)), ("holdout", range(112, 118))):
        draw_dataset(folder / "my" / name, seeds)
    (folder / "my" / "images").mkdir()
    for seed in range(200, 216):
        draw_scene(seed, objects=(2, 4), words=(0, 1)).image.save(folder / "my" / "images" / f"{seed}.png")
    reader = Reader(folder)
    yield reader
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_in_order(page: str, reader: Reader) -> None:
    adapter = reader.folder / "my" / "adapter"
    if page.endswith("adapters.md"):  # the one that the reader has tuned
        shutil.copytree(reader.folder / "runs" / "mine" / "adapter", adapter)
    reader.run(page)
