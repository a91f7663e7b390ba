"""`florist serve` in its own process, with jobs, projects and adapters in one folder: killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

ROOT = Path(__file__).parents[2]
TIMEOUT = 180.0  # seconds for the server to be ready; the machine may be busy


class KillableServer:
    """A server whose data is in `folder`. Use it as a context manager: at the end the process is gone."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when the server is ready. Raises RuntimeError if it does not start."""
        command = [
            sys.executable, "-m", "server.cli.main", "serve", "--port", str(self.port), "--device", "cpu",
            "--jobs-folder", str(self.folder / "jobs"), "--projects-folder", str(self.folder / "projects"),
            "--adapters-folder", str(self.folder / "adapters"), "--jobs-sources", str(self.folder), *self.options,
        ]  # fmt: skip
        (self.folder / "adapters").mkdir(exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLORIST_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + TIMEOUT
        while self.get_status("/readyz") != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends the process without warning, as the kernel does when memory runs out."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def is_alive(self) -> bool:
        """Returns whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def get_status(self, path: str) -> int:
        """Returns the status of a GET; 0 without an answer."""
        try:
            return httpx.get(self.url + path, timeout=10).status_code
        except httpx.TransportError:
            return 0

    def read_memory(self) -> int:
        """Returns the resident memory in bytes of the process and its children, from Linux's /proc."""
        assert self.process is not None
        parents = {int(p.name): _read_parent(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
        family = {self.process.pid}
        while grown := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= grown
        return sum(map(_read_resident, family))


def _read_parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _read_resident(pid: int) -> int:
    """Returns resident bytes that no other process shares, plus this process's part of shared ones, if readable."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
