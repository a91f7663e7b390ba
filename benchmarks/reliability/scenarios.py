"""Work that is killed at random moments. Each scenario knows what must be there afterwards."""

import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from benchmarks.reliability.server import ROOT, TIMEOUT, KillableServer


@dataclass
class Outcome:
    """What a scenario found after its kills. `lost`: acknowledged, and not there. `twice`: there more than once.
    `wrong`: different from an undisturbed run, or unusable."""

    kills: int = 0
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    details: list[str] = field(default_factory=list)

    def add(self, kind: str, detail: str) -> None:
        """Counts a fault."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.details.append(f"{kind}: {detail}")


class Scenario(Protocol):
    """Work that can be killed."""

    name: str

    def run(self, kills: int, moments: random.Random) -> Outcome:
        """Kills the work `kills` times, each time at a random moment, and compares what is there."""


class CommandScenario:
    """A command that writes a folder. Killed and repeated, it must leave the same files as when it is undisturbed."""

    def __init__(self, name: str, folder: Path, command: Callable[[Path], list[str]], *, every: int = 5) -> None:
        self.name, self.folder, self.command, self.every = name, folder, command, every

    def run(self, kills: int, moments: random.Random) -> Outcome:
        outcome = Outcome()
        undisturbed = self.folder / f"{self.name}-undisturbed"
        start = time.monotonic()
        self._finish(undisturbed)
        seconds = time.monotonic() - start
        expected, number = _hash_files(undisturbed), 0
        while outcome.kills < kills:
            out = self.folder / f"{self.name}-{number}"
            number += 1
            for _ in range(min(self.every, kills - outcome.kills)):
                process = self._start(out)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(moments.uniform(0, seconds))
                if process.poll() is not None:
                    break  # it ended before the kill: compare, and start in another folder
                process.send_signal(signal.SIGKILL)
                process.wait()
                outcome.kills += 1
            self._finish(out)
            for difference in _compare(expected, _hash_files(out)):
                outcome.add("wrong", f"{out.name}: {difference}")
        return outcome

    def _start(self, out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "server.cli.main", *self.command(out)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _finish(self, out: Path) -> None:
        command = [sys.executable, "-m", "server.cli.main", *self.command(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")


def _hash_files(folder: Path) -> dict[str, str]:
    """Returns the hashes of a folder's files, without databases, locks, and pages that name times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith((".florist", "florist.db", "summary"))
    }


def _compare(expected: dict[str, str], actual: dict[str, str]) -> list[str]:
    names = sorted(expected.keys() | actual.keys())
    return [
        f"{name} {'is missing' if name not in actual else 'is left over' if name not in expected else 'differs'}"
        for name in names
        if expected.get(name) != actual.get(name)
    ]


class ServedScenario:
    """Clients change a server while it is killed at random moments within `seconds` of its being ready.

    Subclasses send requests in `send`, and compare what they know to be acknowledged in `check`.
    """

    name = ""
    seconds = 2.0

    def __init__(self, server: KillableServer) -> None:
        self.server = server
        self.outcome = Outcome()

    def run(self, kills: int, moments: random.Random) -> Outcome:
        self.prepare()
        for _ in range(kills):
            stop = threading.Event()
            thread = threading.Thread(target=self._send_until, args=(stop,))
            thread.start()
            time.sleep(moments.uniform(0, self.seconds))
            self.server.kill()
            stop.set()
            thread.join()
            self.outcome.kills += 1
            self.server.start()
            self.check()
        self.finish()
        return self.outcome

    def prepare(self) -> None:
        """Creates what the scenario needs."""

    def send(self) -> None:
        """Sends requests. Raises httpx.TransportError when the server is gone."""
        raise NotImplementedError

    def check(self) -> None:
        """Counts what is lost, there twice or wrong, in a server that has started again."""
        raise NotImplementedError

    def finish(self) -> None:
        """Counts what is wrong at the end."""

    def _send_until(self, stop: threading.Event) -> None:
        with suppress(httpx.TransportError):
            while not stop.is_set():
                self.send()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Returns the JSON of a response. Raises httpx.HTTPStatusError for an error that is not a stopped server."""
        response = httpx.request(method, self.server.url + path, timeout=TIMEOUT, **options)
        if response.status_code in (503, 507):
            raise httpx.TransportError(response.text)
        response.raise_for_status()
        return response.json() if response.content else None
