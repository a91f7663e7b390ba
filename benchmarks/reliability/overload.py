"""Overload: more clients than the server can serve, for minutes. Latency of accepted requests, refusals, memory.

`python -m benchmarks.reliability.overload`. First the capacity: prompts per second of as many closed loops as keep the
server busy. Then `--clients` connections send prompts at `--load` times the capacity, at fixed times whether or not
earlier ones are answered (a connection that still waits skips its turn and counts as late). The images come again and
again, when the capacity is measured and later, so that the features of all are cached. Refused requests are answered
with 503.
"""

import http.client
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.http_saturation import BOUNDARY, encode_form, group_by_image, run_closed_loop_in_process
from benchmarks.reliability.server import TIMEOUT, KillableServer
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import make_new_image_requests

HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
BUSY_CLIENTS = 16  # closed loops that keep the server busy


@dataclass
class OverloadLog:
    """Answers of one phase: seconds since its start and seconds of each, by status."""

    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    other: dict[int, int] = field(default_factory=dict)
    skipped: int = 0
    memory: list[int] = field(default_factory=list)


def send_at_times(
    port: int, bodies: list[bytes], times: list[float], first: int, start: float, log: OverloadLog, lock: threading.Lock
) -> None:
    """Sends a request at each of the times, in seconds after `start`, on one connection that is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    for number, at in enumerate(times):
        if (wait := start + at - time.perf_counter()) > 0:
            time.sleep(wait)
        elif wait < -1:
            with lock:
                log.skipped += 1
            continue
        body, begin = bodies[(first + number * 7) % len(bodies)], time.perf_counter()
        try:
            connection.request("POST", "/v1/prompt", body, HEADERS)
            response = connection.getresponse()
            response.read()
            status = response.status
        except (OSError, http.client.HTTPException):
            connection.close()
            status = 0
        seconds = time.perf_counter() - begin
        with lock:
            if status == 200:
                log.answered.append((begin - start, seconds))
            elif status == 503:
                log.refused.append(seconds)
            else:
                log.other[status] = log.other.get(status, 0) + 1


def run_overload(server: KillableServer, bodies: list[bytes], clients: int, rate: float, minutes: float) -> OverloadLog:
    """Sends `rate` requests per second from `clients` connections for some minutes."""
    log, lock, start = OverloadLog(), threading.Lock(), time.perf_counter() + 1
    gap, length = clients / rate, minutes * 60
    threads = [
        threading.Thread(
            target=send_at_times,
            args=(
                server.port, bodies, list(np.arange(client / rate, length, gap)), client * 101, start, log, lock,
            ),
        )
        for client in range(clients)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        log.memory.append(server.read_memory())
        time.sleep(min(5.0, length / 20))
    return log


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of overload.")] = 20.0,
    clients: Annotated[int, typer.Option(min=1, help="Connections.")] = 64,
    load: Annotated[float, typer.Option(min=0.1, help="The load as a multiple of the capacity.")] = 3.0,
    waiting: Annotated[int, typer.Option(min=1, help="The server's max_waiting.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the latency of accepted and refused requests by quarter, and the memory."""
    bodies = [encode_form(group) for group in group_by_image(make_new_image_requests(400))]
    options = ("--log-level", "error", "--max-waiting", str(waiting))
    with tempfile.TemporaryDirectory() as name, KillableServer(Path(name), *options) as server:
        run_closed_loop_in_process(bodies, BUSY_CLIENTS, server.port, "/v1/prompt")
        capacity = len(bodies) / run_closed_loop_in_process(bodies, BUSY_CLIENTS, server.port, "/v1/prompt")
        log = run_overload(server, bodies, clients, load * capacity, minutes)
        alive = server.is_alive()
    workload = f"{minutes:g} minutes, {clients} clients, {load:g} times the capacity of {capacity:.1f} prompts/s"
    quarters = [[s for at, s in log.answered if int(at / (minutes * 15)) == quarter] for quarter in range(4)]
    refused = log.refused or [0.0]
    measurements = [
        Measurement(workload, "accepted", len(log.answered) / (minutes * 60), "prompts/s"),
        *(
            Measurement(workload, f"accepted, p99 of quarter {i + 1}", float(np.percentile(q, 99)) * 1e3, "ms")
            for i, q in enumerate(quarters)
            if q
        ),
        Measurement(workload, "refused with 503", len(log.refused), "requests"),
        *(Measurement(workload, f"503, p{p}", float(np.percentile(refused, p)) * 1e3, "ms") for p in (50, 99)),
        Measurement(workload, "skipped, as the connection still waited", log.skipped, "requests"),
        *(Measurement(workload, f"status {status}", count, "requests") for status, count in log.other.items()),
        *(
            Measurement(workload, f"memory at {share:.0%} of the time", _at(log.memory, share) / 2**20, "MiB")
            for share in (0.1, 0.5, 1.0)
        ),
    ]
    report_measurements("Overload", measurements, out)
    if not alive or log.other:
        raise typer.Exit(1)


def _at(values: list[int], share: float) -> int:
    return values[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    typer.run(main)
