"""Costly requests at full size, each repeated for some seconds beside ordinary prompts: `--only WORD` for some of them.

For each: the answers, how long ordinary prompts and /healthz took meanwhile, and the memory at its peak.
"""

import io
import math
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from benchmarks.reliability.attack_inputs import IMAGES, RECIPES, make_adapter, make_labels, write_sources
from benchmarks.reliability.server import TIMEOUT, KillableServer
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import draw_scenes, save_scenes

Send = Callable[[httpx.Client, int], int]
"""Sends request number n of an attack, and returns the status."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A request that `clients` repeat. `before`: what it did when it was found, if that is known."""

    name: str
    send: Send
    clients: int = 2
    before: str = ""


@dataclass
class Watch:
    """The seconds of ordinary prompts and of /healthz, each on a new connection, and the memory in bytes."""

    server: KillableServer
    image: bytes
    prompts: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    peak: int = 0

    def run(self, seconds: float, attack: Attack | None = None) -> Counter[int]:
        """Watches for some seconds. Returns the answers to the attack."""
        stop, answers, numbers = threading.Event(), Counter[int](), count()
        targets = [self._watch_prompts, self._watch_health, self._watch_memory]
        threads = [threading.Thread(target=target, args=(stop,)) for target in targets]
        for _ in range(attack.clients if attack else 0):
            threads.append(threading.Thread(target=self._attack, args=(stop, attack, answers, numbers)))
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        return answers

    def _attack(self, stop: threading.Event, attack: Attack, answers: Counter[int], numbers: Iterator[int]) -> None:
        with httpx.Client(base_url=self.server.url, timeout=TIMEOUT) as client:
            while not stop.is_set():
                try:
                    status = attack.send(client, next(numbers))
                except httpx.TransportError:
                    status = 0
                answers[status] += 1
                if status in (0, 503):
                    stop.wait(0.1)

    def _watch_prompts(self, stop: threading.Event) -> None:
        while not stop.wait(0.02):
            start = time.monotonic()
            self.statuses[send_image(self.server, self.image)] += 1
            self.prompts.append(time.monotonic() - start)

    def _watch_health(self, stop: threading.Event) -> None:
        while not stop.wait(0.1):
            start = time.monotonic()
            self.server.get_status("/healthz")
            self.health.append(time.monotonic() - start)

    def _watch_memory(self, stop: threading.Event) -> None:
        while not stop.wait(0.5):
            self.peak = max(self.peak, self.server.read_memory())


def send_image(client: Any, image: bytes, **fields: str) -> int:
    """Sends one prompt, and returns the status."""
    url = f"{client.url}/v1/prompt" if isinstance(client, KillableServer) else "/v1/prompt"
    post = httpx.post if isinstance(client, KillableServer) else client.post
    fields = {"task": "<OD>", "max_new_tokens": "8", "num_beams": "1", **fields}
    return post(url, files={"image": image}, data=fields, timeout=TIMEOUT).status_code


def list_attacks(folder: Path, image: bytes) -> Iterator[tuple[str, Callable[[], Attack]]]:
    """Yields each attack by name, as a function that prepares it. `folder`: of job sources. `image`: a small one."""

    def image_attack(name: str) -> Attack:
        make, before = IMAGES[name]
        data = make()
        return Attack(name, lambda client, _: send_image(client, data), before=before)

    for name in IMAGES:
        yield name, lambda name=name: image_attack(name)

    def constrain(labels: int, length: int) -> Send:
        def send(client: httpx.Client, n: int) -> int:
            fields = {"task": "<OD>", "num_beams": "1", "max_new_tokens": "8"}
            body = {**fields, "image": SMALL, "constrain": {"labels": make_labels(labels, length, n * 10_000)}}
            return client.post("/v1/prompt", json=body).status_code

        return send

    for name, labels, length, before in (
        ("31 MB of labels", 2000, 15_000, "ended the process"),
        ("different labels, 1 MB", 2000, 500, "event loop stalled 5 s, 640 MB each"),
        ("different labels, as long as allowed", 800, 70, ""),
    ):
        yield name, lambda n=name, k=labels, m=length, b=before: Attack(n, constrain(k, m), before=b)

    for name, (recipe, before) in RECIPES.items():
        body = {"source": str(folder), "recipe": recipe}
        yield (
            name,
            lambda n=name, body=body, b=before: Attack(
                n, lambda client, _: client.post("/v1/jobs", json=body).status_code, before=b
            ),
        )
    for name, (path, before) in write_sources(folder).items():
        body = {"source": str(path), "recipe": {"name": "r", "steps": [{"id": "a", "task": "<OD>"}]}}
        yield (
            name,
            lambda n=name, body=body, b=before: Attack(
                n,
                lambda client, k: client.post("/v1/jobs", json=body | {"output": f"{n} {k}"}).status_code,
                before=b,
            ),
        )
    for scale, alpha in ((1e20, 2), (1.0, 1e300)):
        name = f"an adapter of weights {scale:g}, alpha {alpha:g}"
        yield (
            name,
            lambda n=name, s=scale, a=alpha: Attack(
                n,
                lambda client, _: client.put("/v1/adapters/a", files=make_adapter(s, a)).status_code,
                before="500 at each prompt",
            ),
        )
    yield "lone surrogate in an adapter", lambda: Attack(
        "lone surrogate in an adapter",
        lambda client, _: client.put("/v1/adapters/a", files=make_adapter(1.0, target="\ud800")).status_code,
        before="500",
    )


SMALL = ""


def percentile(values: list[float], share: float) -> float:
    """Returns the smallest value that `share` of the values do not exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def main(
    seconds: Annotated[float, typer.Option(min=1, help="For each attack.")] = 15,
    only: Annotated[str, typer.Option(help="Only attacks with this in their name.")] = "",
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    global SMALL
    import base64

    file = io.BytesIO()
    draw_scenes(1)[0].image.save(file, "PNG")
    image = file.getvalue()
    SMALL = base64.b64encode(image).decode()
    with tempfile.TemporaryDirectory(dir="/tmp/rev3") as name:
        folder = Path(name)
        (folder / "images").mkdir()
        save_scenes(folder / "images", 2)
        with KillableServer(folder, "--log-level", "error") as server:
            send_image(server, image)
            for label, make in list_attacks(folder, image):
                if only not in label:
                    continue
                attack = make()
                quiet = Watch(server, image)
                quiet.run(max(seconds / 3, 4))
                watch = Watch(server, image)
                answers = watch.run(seconds, attack)
                p99, p99q = percentile(watch.prompts, 0.99), percentile(quiet.prompts, 0.99)
                print(
                    f"{attack.name:50} {dict(answers)} p50 {percentile(quiet.prompts, .5)*1e3:.0f} -> "
                    f"{percentile(watch.prompts, .5)*1e3:.0f} p99 {p99q*1e3:.0f} -> {p99*1e3:.0f} ms "
                    f"({p99/p99q:.1f}x) health max {max(watch.health)*1e3:.0f} ms peak {watch.peak/2**20:.0f} (quiet {quiet.peak/2**20:.0f}) MiB "
                    f"prompts {dict(watch.statuses)} alive {server.is_alive()}",
                    flush=True,
                )
        print((folder / "server.log").read_text()[-3000:])


if __name__ == "__main__":
    typer.run(main)
