"""Sends hostile requests to a server, and counts crashes and answers with status 500.

`python -m benchmarks.reliability.hostile_bodies`. Bodies are valid requests of every route with a body, damaged by
seeded mutations: values replaced by other types, extremes, lone surrogates, deep nesting, huge texts; bytes flipped,
cut, repeated; forms with wrong boundaries and repeated fields; broken images and weights. Every answer must have a
status below 500 or be 503, 504 or 507, and be JSON or a problem without paths and traces. Ordinary prompts are sent
meanwhile; they must be answered as before.
"""

import http.client
import io
import json
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from PIL import Image

from benchmarks.mixed_adapters import save_random_adapter
from benchmarks.reliability.server import TIMEOUT, KillableServer
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import draw_scenes
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING

ALLOWED = {503, 504, 507}  # busy, late, out of disk: these say that the request was not at fault
FORBIDDEN = (b"Traceback", b"site-packages", b'File "', str(Path(__file__).parents[2]).encode())
BOUNDARY = "florist-hostile"
CLIENTS = 8
_EXTREMES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 1e308, -1e308, 1e-320, 0.5, "", " ", "\0", "\ud800",
    "a" * 5000, "é" * 999, "\u202e\u0301", "<loc_1>", "<OD>", "../../etc/passwd", "{{7*7}}", "%s%n", "'; DROP",
    [], {}, [[]], [[[[[[]]]]]], [0] * 2000, {"a": {"b": {}}}, [None], ["\ud800"], "NaN", "Infinity", "1e999",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Template:
    """A valid request."""

    method: str
    path: str
    json: dict[str, Any] | None = None
    fields: dict[str, str | bytes] | None = None


class Mutator:
    """Damages requests, the same way for the same seed."""

    def __init__(self, templates: list[Template], seed: int) -> None:
        self.templates, self.random = templates, random.Random(seed)

    def make(self) -> tuple[str, str, bytes, dict[str, str]]:
        """Returns method, path, body and headers."""
        template = self.random.choice(self.templates)
        if template.json is not None:
            body, kind = self._make_json(template.json), "application/json"
        else:
            body, kind = self._make_form(template.fields or {}), f"multipart/form-data; boundary={BOUNDARY}"
        if self.random.random() < 0.4:
            body = self._damage_bytes(body)
        if self.random.random() < 0.05:
            kind = self.random.choice(
                ["", "text/plain", "application/json", "multipart/form-data", "a" * 500, kind * 3]
            )
        return template.method, template.path, body, {"Content-Type": kind}

    def _make_json(self, document: dict[str, Any]) -> bytes:
        for _ in range(self.random.randint(1, 3)):
            document = self._damage_value(document)
        text = json.dumps(document)
        if self.random.random() < 0.05:
            depth = self.random.choice([50, 1000, 100_000])
            text = text[:-1] + ',"x":' + "[" * depth + "]" * depth + "}"
        if self.random.random() < 0.05:
            text = text.replace("1", "9" * self.random.choice([30, 400, 5000]), 1)
        return text.encode()

    def _damage_value(self, value: Any) -> Any:
        if isinstance(value, dict) and value and self.random.random() < 0.8:
            key = self.random.choice(list(value))
            kind = self.random.random()
            if kind < 0.1:
                return {k: v for k, v in value.items() if k != key}
            if kind < 0.2:
                return value | {self._choose_text(): self.random.choice(_EXTREMES)}
            return value | {key: self._damage_value(value[key])}
        if isinstance(value, list) and value and self.random.random() < 0.8:
            index = self.random.randrange(len(value))
            if self.random.random() < 0.1:
                return value * self.random.choice([0, 2, 300])
            return [*value[:index], self._damage_value(value[index]), *value[index + 1 :]]
        if isinstance(value, str) and self.random.random() < 0.3:
            index = self.random.randrange(len(value) + 1)
            return value[:index] + self._choose_text() + value[index:]
        return self.random.choice(_EXTREMES)

    def _choose_text(self) -> str:
        return self.random.choice([each for each in _EXTREMES if isinstance(each, str)])

    def _make_form(self, fields: dict[str, str | bytes]) -> bytes:
        parts = list(fields.items())
        kind = self.random.random()
        if kind < 0.3:
            index = self.random.randrange(len(parts))
            name, value = parts[index]
            data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
            parts[index] = (name, self._damage_bytes(data))
        elif kind < 0.6:
            name, value = self.random.choice([each for each in parts if isinstance(each[1], str)] or parts)
            document = _load(value)
            damaged = self._damage_value(document) if document is not None else self._choose_text()
            text = damaged if isinstance(damaged, str) else json.dumps(damaged)
            parts = [(n, text if n == name else v) for n, v in parts]
        elif kind < 0.7:
            parts.append(self.random.choice(parts))
        elif kind < 0.8:
            parts.append((self._choose_text(), self._choose_text()))
        body = b"".join(_format_part(name, value) for name, value in parts)
        return body + f"--{BOUNDARY}--\r\n".encode()

    def _damage_bytes(self, data: bytes) -> bytes:
        if not data:
            return bytes(self.random.randrange(256) for _ in range(20))
        kind, index = self.random.randrange(5), self.random.randrange(len(data))
        if kind == 0:
            return data[:index]
        if kind == 1:
            return data[:index] + bytes([self.random.randrange(256)]) + data[index + 1 :]
        if kind == 2:
            end = min(len(data), index + self.random.randrange(1, 200))
            return data[:end] + data[index:end] * self.random.choice([1, 50]) + data[end:]
        if kind == 3:
            return data[:index] + bytes(self.random.randrange(256) for _ in range(30)) + data[index:]
        return data[:index] + data[index + self.random.randrange(1, 50) :]


def _load(value: str | bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def _format_part(name: str, value: str | bytes) -> bytes:
    file = f'; filename="{name}"' if isinstance(value, bytes) else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return head.encode("utf-8", "surrogatepass") + data + b"\r\n"


def make_templates(folder: Path) -> list[Template]:
    """Returns valid requests of every route with a body. Jobs and runs have nothing to work on: they would take the
    cores from the measurement."""
    file = io.BytesIO()
    Image.effect_noise((48, 40), 50).save(file, "PNG")
    jpeg = io.BytesIO()
    Image.effect_noise((48, 40), 50).convert("RGB").save(jpeg, "JPEG")
    images = (file.getvalue(), jpeg.getvalue())
    box = {"kind": "box", "label": "sign", "box": [1, 2, 30, 30]}
    region = {"task": "<REGION_TO_CATEGORY>", "region": [1, 2, 30, 30]}
    prompts = [{"task": "<OD>"}, region, {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a hat"}]
    adapter = save_random_adapter(folder / "hostile-adapter", load_checkpoint(SEEDLING), 1)
    source = str(folder / "server/none")
    templates = [
        Template("POST", "/v1/projects", json={"name": "hostile", "tasks": ["<OD>"], "holdout_share": 0.2}),
        Template("POST", "/v1/projects/2/runs", json={"steps": 9, "learning_rate": 1e-3, "lora_rank": 2, "seed": 1}),
        Template("POST", "/v1/projects/1/models", json={"combine": "add", "models": [1, 2], "weights": [0.5, 0.5]}),
        Template("POST", "/v1/projects/1/models", json={"combine": "route", "models": [1], "routes": {"a": 1}}),
        Template("POST", "/v1/projects/1/promote", json={"model": 1, "forced": True, "reason": "why"}),
        Template("POST", "/v1/projects/1/rollback", json={"task": "<OD>", "reason": "why"}),
        Template("POST", "/v1/projects/1/backtests", json={"model": 1, "forgetting_images": 0}),
        Template("POST", "/v1/projects/1/corrections/job", json={"job": 1}),
        Template(
            "POST", "/v1/jobs",
            json={"source": source, "output": "a", "recipe": {"name": "r", "steps": [
                {"id": "a", "task": "<OD>", "filter": {"nms": 0.7}},
                {"id": "b", "task": "<REGION_TO_CATEGORY>", "for_each": "a"}], "ontology": {"a": ["b"]}}},
        ),
        Template("POST", "/v1/jobs", json={"source": source, "recipe": "steps: [{id: a, task: <OD>}]"}),
    ]  # fmt: skip
    for image in images:
        templates += [
            Template("POST", "/v1/prompt", fields={"image": image, "task": "<OD>", "max_new_tokens": "8"}),
            Template("POST", "/v1/prompt", fields={"image": image, "prompts": json.dumps(prompts), "num_beams": "1"}),
            Template(
                "POST", "/v1/prompt", fields={"image": image, "task": "<OD>", "constrain": json.dumps(["car", "hat"])}
            ),
            Template("POST", "/v1/projects/1/corrections", fields={"image": image, "annotations": json.dumps([box])}),
        ]
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    config = (adapter / "adapter_config.json").read_text()
    templates.append(
        Template("PUT", "/v1/adapters/hostile", fields={"config": config.encode(), "weights": weights[:20_000]})
    )
    return templates


class HostileClients:
    """Sends `count` requests from several connections, and counts the answers."""

    def __init__(self, server: KillableServer, templates: list[Template], count: int, seed: int) -> None:
        self.server, self.templates, self.seed = server, templates, seed
        self.numbers, self.lock = iter(range(count)), threading.Lock()
        self.statuses, self.faults = Counter[int](), list[str]()

    def run(self) -> None:
        threads = [threading.Thread(target=self._send_all) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send_all(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT)
        for number in self._iter_numbers():
            method, path, body, headers = Mutator(self.templates, self.seed + number).make()
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not self.server.is_alive():
                    self._add_fault(number, f"{method} {path}: the server has ended")
                    return
                # A body that is longer than the limit is refused before it is read; the connection ends then.
                self._count(0 if isinstance(error, ConnectionError | TimeoutError) else -1)
                continue
            self._count(response.status)
            if response.status >= 500 and response.status not in ALLOWED:
                self._add_fault(number, f"{method} {path}: {response.status} {content[:200]!r}")
            if any(text in content for text in FORBIDDEN):
                self._add_fault(number, f"{method} {path}: a path or a trace: {content[:300]!r}")

    def _iter_numbers(self) -> Iterator[int]:
        while True:
            with self.lock:
                number = next(self.numbers, None)
            if number is None:
                return
            if number % 5000 == 0:
                print(f"body {number:,}: {len(self.faults)} faults", flush=True)
            yield number

    def _count(self, status: int) -> None:
        with self.lock:
            self.statuses[status] += 1

    def _add_fault(self, number: int, fault: str) -> None:
        with self.lock:
            self.faults.append(f"body {number}: {fault}")


class PromptWatch:
    """Sends an ordinary prompt again and again, and compares each answer with the first."""

    def __init__(self, server: KillableServer) -> None:
        self.server = server
        file = io.BytesIO()
        draw_scenes(1)[0].image.save(file, "PNG")
        self.image = file.getvalue()
        self.expected = self._send()
        self.answers, self.different = 0, list[Any]()

    def run(self, stop: threading.Event) -> None:
        """Runs until `stop`. Raises httpx.TransportError if the server does not answer."""
        while not stop.wait(0.5):
            self.answers += 1
            if (answer := self._send()) != self.expected:
                self.different.append(answer)

    def _send(self) -> Any:
        response = httpx.post(
            f"{self.server.url}/v1/prompt", files={"image": self.image}, data={"task": "<OD>"}, timeout=TIMEOUT
        )
        if response.status_code != 200:
            return response.status_code
        # Without scores: their last digits depend on the prompts that are answered at the same time.
        return [(each["label"], each["box"]) for each in response.json()["annotations"]]


def main(
    bodies: Annotated[int, typer.Option(min=100, help="Hostile requests.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of the mutations.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the statuses, the faults, and the memory before and after."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server").mkdir()
        with KillableServer(folder / "server", "--log-level", "error") as server:
            for project in ("ordinary", "empty"):
                httpx.post(f"{server.url}/v1/projects", json={"name": project}, timeout=TIMEOUT).raise_for_status()
            watch, stop = PromptWatch(server), threading.Event()
            watcher = threading.Thread(target=watch.run, args=(stop,))
            watcher.start()
            templates = make_templates(folder)
            HostileClients(server, templates, bodies // 20, seed + bodies).run()  # caches are filled
            before = server.read_memory()
            clients = HostileClients(server, templates, bodies, seed)
            clients.run()
            stop.set()
            watcher.join()
            after, alive = server.read_memory(), server.is_alive()
    workload = f"{bodies:,} hostile bodies"
    faults = len(clients.faults)
    measurements = [
        Measurement(workload, "crashes", float(not alive), "crashes"),
        Measurement(workload, "answers with 500, a path or a trace", faults, "answers"),
        *(
            Measurement(workload, f"status {status}" if status > 0 else "connection closed", count, "answers")
            for status, count in sorted(clients.statuses.items())
        ),
        Measurement(
            workload,
            "ordinary prompts meanwhile",
            watch.answers,
            "prompts",
            note=f"{len(watch.different)} other answers",
        ),
        Measurement(workload, "memory before", before / 2**20, "MiB"),
        Measurement(workload, "memory after", after / 2**20, "MiB"),
    ]
    report_measurements("Hostile bodies", measurements, out)
    print("\n".join(clients.faults[:50]))
    print("\n".join(f"another answer: {answer}" for answer in watch.different[:5]))
    if faults or not alive or watch.different:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
