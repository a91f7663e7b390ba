"""Costly requests at full size, each sent again and again beside the ordinary prompts of another client.

For each: how many times longer the slowest ordinary prompts take than before it, what is answered, how long /healthz
takes at most, and the memory of the server and its decoders at their peak.
"""

import base64
import io
import math
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from benchmarks.reliability.attack_inputs import (
    ADAPTERS,
    IMAGES,
    LABELS,
    RECIPES,
    make_adapter,
    make_labels,
    write_sources,
)
from benchmarks.reliability.server import TIMEOUT, KillableServer
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import draw_scenes, save_scenes

ALLOWED = {0, 503, 504, 507}  # closed, busy, late, out of disk
PROMPT = {"task": "<OD>", "max_new_tokens": "8", "num_beams": "1"}
_CLIENTS, _NICENESS = 2, 10  # of the attackers
Send = Callable[[httpx.Client, int], httpx.Response]
"""Sends request number n of an attack."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A request that two clients repeat. `before`: what it did when it was found, if that is known."""

    name: str
    prepare: Callable[[], Send]
    before: str = ""


@dataclass
class Watch:
    """The seconds of ordinary prompts and of /healthz, each on a new connection, and the memory in bytes."""

    server: KillableServer
    image: bytes
    prompts: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    failed: int = 0
    peak: int = 0
    answers: Counter[int] = field(default_factory=Counter)

    def run(self, seconds: float, send: Send | None = None) -> None:
        """Watches for some seconds, while `send` is repeated."""
        stop = threading.Event()
        watchers = [
            threading.Thread(target=watch, args=[stop])
            for watch in (self._watch_prompts, self._watch_health, self._watch_memory)
        ]
        with attack_beside(self.server.url, send, self.answers):
            for watcher in watchers:
                watcher.start()
            time.sleep(seconds)
            stop.set()
            for watcher in watchers:
                watcher.join()

    def _watch_prompts(self, stop: threading.Event) -> None:
        while not stop.wait(0.02):
            start = time.monotonic()
            self.failed += not is_answered(self.server, self.image)
            self.prompts.append(time.monotonic() - start)

    def _watch_health(self, stop: threading.Event) -> None:
        while not stop.wait(0.1):
            start = time.monotonic()
            self.failed += self.server.get_status("/healthz") != 200
            self.health.append(time.monotonic() - start)

    def _watch_memory(self, stop: threading.Event) -> None:
        while not stop.wait(0.5):
            self.peak = max(self.peak, self.server.read_memory())


@contextmanager
def attack_beside(url: str, send: Send | None, answers: Counter[int]) -> Iterator[None]:
    """Lets two clients repeat `send` in a process of their own, and counts their `answers`.

    Its priority is low: attackers have computers of their own, and those of this one are for the server and the others.
    """
    if send is None:
        yield
        return
    context = multiprocessing.get_context("fork")  # `send` cannot be pickled
    stop, (receiver, sender) = context.Event(), context.Pipe(duplex=False)
    process = context.Process(target=_run_attackers, args=(url, send, stop, sender), daemon=True)
    process.start()
    try:
        yield
    finally:
        stop.set()
        answers.update(receiver.recv())
        process.join()


def _run_attackers(url: str, send: Send, stop: Event, sender: Connection) -> None:
    os.nice(_NICENESS)
    numbers, answers = count(), Counter[int]()
    threads = [threading.Thread(target=_repeat, args=(url, send, stop, numbers, answers)) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sender.send(answers)


def _repeat(url: str, send: Send, stop: Event, numbers: Iterator[int], answers: Counter[int]) -> None:
    # From another address: the server shares its time between clients.
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=url, timeout=TIMEOUT, transport=transport) as client:
        while not stop.is_set():
            try:
                status = send(client, next(numbers)).status_code
            except httpx.TransportError:
                status = 0
            answers[status] += 1
            if status in ALLOWED:
                stop.wait(0.1)


def is_answered(server: KillableServer, image: bytes) -> bool:
    """Sends an ordinary prompt, and returns whether it is answered."""
    try:
        response = httpx.post(f"{server.url}/v1/prompt", files={"image": image}, data=PROMPT, timeout=TIMEOUT)
    except httpx.TransportError:
        return False
    return response.status_code == 200


def list_attacks(folder: Path, image: bytes) -> list[Attack]:
    """Returns all attacks. `folder`: where job sources are written. `image`: of an ordinary prompt."""

    def send_image(make: Callable[[], bytes]) -> Send:
        data = make()
        return lambda client, _: client.post("/v1/prompt", files={"image": data}, data=PROMPT)

    def send_labels(labels: int, length: int) -> Send:
        encoded = base64.b64encode(image).decode()

        def send(client: httpx.Client, number: int) -> httpx.Response:
            constrain = {"labels": make_labels(labels, length, number * labels)}
            return client.post("/v1/prompt", json={**PROMPT, "image": encoded, "constrain": constrain})

        return send

    def send_job(source: Path, recipe: object) -> Send:
        return lambda client, number: client.post(
            "/v1/jobs", json={"source": str(source), "recipe": recipe, "output": f"{source.name} {number}"}
        )

    def send_adapter(**options: Any) -> Send:
        files = make_adapter(**options)
        return lambda client, _: client.put("/v1/adapters/attack", files=files)

    plain = {"name": "r", "steps": [{"id": "a", "task": "<OD>"}]}
    sources = write_sources(folder)
    return [
        *(Attack(name, partial(send_image, make), before) for name, (make, before) in IMAGES.items()),
        *(Attack(name, partial(send_labels, *size), before) for name, (size, before) in LABELS.items()),
        *(Attack(name, partial(send_job, folder, recipe), before) for name, (recipe, before) in RECIPES.items()),
        *(Attack(name, partial(send_job, path, plain), before) for name, (path, before) in sources.items()),
        *(Attack(name, partial(send_adapter, **options), before) for name, (options, before) in ADAPTERS.items()),
    ]


def measure(attack: Attack, server: KillableServer, image: bytes, seconds: float) -> tuple[Measurement, bool]:
    """Returns the measurement of an attack, and whether the server answered as it should."""
    send = attack.prepare()
    quiet, watch = Watch(server, image), Watch(server, image)
    quiet.run(seconds / 2)
    watch.run(seconds, send)
    slowest, usual = (compute_p99(one.prompts) for one in (watch, quiet))
    answers = ", ".join(f"{status or 'closed'}: {number}" for status, number in sorted(watch.answers.items()))
    before = f"was: {attack.before}; " if attack.before else ""
    note = (
        f"{before}answers {answers}; ordinary prompts {slowest:.2f} s, before {usual:.2f} s; "
        f"/healthz {max(watch.health):.2f} s; {watch.peak / 2**20:.0f} MiB"
    )
    passed = server.is_alive() and not watch.failed and all(s < 500 or s in ALLOWED for s in watch.answers)
    return Measurement("attack", attack.name, slowest / usual, "times", note=note), passed


def compute_p99(values: list[float]) -> float:
    """Returns the smallest value that 99 % of the values do not exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def main(
    seconds: Annotated[float, typer.Option(min=2, help="For each attack.")] = 12,
    only: Annotated[str, typer.Option(help="Only attacks whose name this regular expression matches.")] = "",
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints each attack with its figures. Fails if the server ended, or a request failed that should not."""
    file = io.BytesIO()
    draw_scenes(1)[0].image.save(file, "PNG")
    image = file.getvalue()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        save_scenes(folder / "images", 2)
        with KillableServer(folder, "--log-level", "error") as server:
            is_answered(server, image)
            attacks = [attack for attack in list_attacks(folder, image) if re.search(only, attack.name)]
            measurements, failed = [], []
            for attack in attacks:
                measurement, passed = measure(attack, server, image, seconds)
                print(f"{attack.name}: {measurement.value:.1f} times; {measurement.note}", flush=True)
                measurements.append(measurement)
                failed += [] if passed else [attack.name]
    report_measurements("Attacks", measurements, out)
    if failed:
        print(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
