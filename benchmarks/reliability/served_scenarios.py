"""Changes of a server that are acknowledged: corrections, jobs, runs, adapters, promotions."""

import hashlib
import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks.reliability.scenarios import ServedScenario
from benchmarks.reliability.server import TIMEOUT, KillableServer

TUNE = {
    "steps": 6, "evaluate_every": 3, "batch_size": 2, "prompts_per_image": 1, "metric": "loss", "replay_share": 0,
    "lora_rank": 2, "augmentation": 0,
}  # fmt: skip


class CorrectionScenario(ServedScenario):
    """Corrections are sent one after another, and a job labels a folder meanwhile."""

    name = "serve: corrections and a job"

    def __init__(self, server: KillableServer, images: Path) -> None:
        super().__init__(server)
        self.images, self.sent, self.acknowledged = images, 0, set[str]()
        self.project = self.job = 0

    def prepare(self) -> None:
        self.project = self.request("POST", "/v1/projects", json={"name": "killed"})["id"]
        self.undisturbed = self._label("undisturbed")
        self.job = self.request("POST", "/v1/jobs", json=self._job_body("disturbed"))["id"]

    def _job_body(self, output: str) -> dict[str, str]:
        return {"source": str(self.images), "recipe": "detect", "output": output}

    def _label(self, output: str) -> list[Any]:
        job = self.request("POST", "/v1/jobs", json=self._job_body(output))["id"]
        return self._wait_for_answers(job)

    def _wait_for_answers(self, job: int) -> list[Any]:
        while (state := self.request("GET", f"/v1/jobs/{job}")["state"]) not in ("done", "failed"):
            time.sleep(0.2)
        if state == "failed":
            return [state]
        response = httpx.get(f"{self.server.url}/v1/jobs/{job}/results?limit=1000", timeout=TIMEOUT)
        response.raise_for_status()
        return [response.json()["images"]]

    def send(self) -> None:
        self.sent += 1
        name = f"{self.sent}.png"
        file = io.BytesIO()
        color = (self.sent % 256, self.sent // 256 % 256, 7)
        Image.new("RGB", (32, 32), color).save(file, "PNG")
        box = [{"kind": "box", "label": "sign", "box": [1, 1, 20, 20]}]
        self.request(
            "POST", f"/v1/projects/{self.project}/corrections",
            files={"image": ("a.png", file.getvalue())}, data={"annotations": json.dumps(box), "name": name},
        )  # fmt: skip
        self.acknowledged.add(name)

    def check(self) -> None:
        stored, after = Counter[str](), 0
        while after is not None:
            page = self.request("GET", f"/v1/projects/{self.project}/corrections?limit=1000&after={after}")
            stored.update(correction["name"] for correction in page["corrections"])
            after = page["next"]
        for name in sorted(self.acknowledged - stored.keys()):
            self.outcome.add("lost", f"correction {name}")
        for name in sorted(name for name, count in stored.items() if count > 1):
            self.outcome.add("twice", f"correction {name}")

    def finish(self) -> None:
        state = self.request("GET", f"/v1/jobs/{self.job}")["state"]
        if state in ("paused", "failed"):
            self.outcome.add("wrong", f"the job is {state}")
        elif self._wait_for_answers(self.job) != self.undisturbed:
            self.outcome.add("wrong", "the answers of the job differ from those of an undisturbed one")


class TuneScenario(ServedScenario):
    """Fine-tune runs are started, and continue after each kill. Every run ends, with one model."""

    name = "tune"
    seconds = 12.0

    def __init__(self, server: KillableServer, images: Path) -> None:
        super().__init__(server)
        self.images, self.acknowledged = images, list[int]()
        self.project = 0

    def prepare(self) -> None:
        self.project = self.request("POST", "/v1/projects", json={"name": "tuned", "holdout_share": 0.3})["id"]
        for number, path in enumerate(sorted(self.images.iterdir())):
            box = [{"kind": "box", "label": f"thing {number}", "box": [10, 10, 90, 90]}]
            self.request(
                "POST", f"/v1/projects/{self.project}/corrections",
                files={"image": path.read_bytes()}, data={"annotations": json.dumps(box)},
            )  # fmt: skip

    def send(self) -> None:
        run = self.request("POST", f"/v1/projects/{self.project}/runs", json=TUNE)["id"]
        self.acknowledged.append(run)
        while True:  # the next run starts when this one has ended
            if self.request("GET", f"/v1/projects/{self.project}/runs/{run}")["ended"]:
                return
            time.sleep(0.2)

    def _list_runs(self) -> list[Any]:
        runs, after = list[Any](), 0
        while after is not None:
            page = self.request("GET", f"/v1/projects/{self.project}/runs?limit=100&after={after}")
            runs += page["runs"]
            after = page["next"]
        return runs

    def check(self) -> None:
        stored = Counter(run["id"] for run in self._list_runs())
        for run in self.acknowledged:
            if not stored[run]:
                self.outcome.add("lost", f"run {run}")

    def finish(self) -> None:
        deadline = time.monotonic() + 10 * TIMEOUT
        while any(run["state"] in ("queued", "running") for run in self._list_runs()):
            if time.monotonic() > deadline:
                self.outcome.add("wrong", "a run does not end")
                break
            time.sleep(1)
        models = Counter(m["run"] for m in self.request("GET", f"/v1/projects/{self.project}/models")["models"])
        for run in self._list_runs():
            if run["state"] != "done":
                self.outcome.add("wrong", f"run {run['id']} is {run['state']}: {run['reason']}")
            elif not models[run["id"]]:
                self.outcome.add("lost", f"the model of run {run['id']}")
            elif models[run["id"]] > 1:
                self.outcome.add("twice", f"the model of run {run['id']}")


class AdapterScenario(ServedScenario):
    """Two versions of an adapter take turns. After a kill it is one of them: the acknowledged one or the next."""

    name = "PUT of an adapter"

    def __init__(self, server: KillableServer, versions: list[Path]) -> None:
        super().__init__(server)
        self.versions = [_read_adapter(path) for path in versions]
        self.hashes = [hashlib.sha256(files["weights"][1]).hexdigest() for files in self.versions]
        self.current, self.sending = None, None  # type: int | None, int | None

    def send(self) -> None:
        self.sending = 0 if self.current is None else 1 - self.current
        self.request("PUT", "/v1/adapters/killed", files=self.versions[self.sending])
        self.current, self.sending = self.sending, None

    def check(self) -> None:
        adapters = [a for a in self.request("GET", "/v1/adapters")["adapters"] if a["name"] == "killed"]
        if len(adapters) > 1:
            self.outcome.add("twice", "the adapter")
        allowed = {self.hashes[i] for i in (self.current, self.sending) if i is not None}
        if not adapters:
            if self.current is not None:
                self.outcome.add("lost", "the adapter")
            return
        if adapters[0]["sha256"] not in allowed:
            self.outcome.add("wrong", "the adapter is not one of those that were sent last")
        else:
            self.current = self.hashes.index(adapters[0]["sha256"])
        self._check_answer()
        left = [p.name for p in (self.server.folder / "adapters").iterdir() if p.name != "killed"]
        if left:
            self.outcome.add("wrong", f"the adapters' folder also holds {', '.join(left)}")

    def _check_answer(self) -> None:
        file = io.BytesIO()
        Image.new("RGB", (64, 64), "white").save(file, "PNG")
        self.request("POST", "/v1/prompt", files={"image": file.getvalue()}, data={"task": "<OD>", "adapter": "killed"})


class PromotionScenario(ServedScenario):
    """Two models take turns as the champion. The history has every acknowledged promotion once."""

    name = "promote"

    def __init__(self, server: KillableServer, project: int, models: list[int]) -> None:
        super().__init__(server)
        self.project, self.models = project, models
        self.sent, self.acknowledged = 0, set[str]()
        self.champion: int | None = None

    def send(self) -> None:
        self.sent += 1
        reason = f"promotion {self.sent}"
        model = self.models[self.champion == self.models[0]]
        self.request(
            "POST",
            f"/v1/projects/{self.project}/promote",
            json={"model": model, "forced": True, "reason": reason},
        )
        self.champion = model
        self.acknowledged.add(reason)

    def check(self) -> None:
        state = self.request("GET", f"/v1/projects/{self.project}/models")
        history = Counter(promotion["reason"] for promotion in state["promotions"])
        for reason in sorted(self.acknowledged - history.keys()):
            self.outcome.add("lost", reason)
        for reason in sorted(reason for reason, count in history.items() if count > 1):
            self.outcome.add("twice", reason)
        champions = [model["id"] for model in state["models"] if model["is_champion"]]
        last = state["promotions"][-1:] or [{"model": None}]
        if champions != [promotion["model"] for promotion in last if promotion["model"] is not None]:
            self.outcome.add("wrong", f"the champions are {champions}, the last promotion is {last}")
        self.champion = champions[0] if champions else None


def _read_adapter(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Returns the form of an upload."""
    return {
        "config": ("adapter_config.json", (folder / "adapter_config.json").read_bytes()),
        "weights": ("adapter_model.safetensors", (folder / "adapter_model.safetensors").read_bytes()),
    }
