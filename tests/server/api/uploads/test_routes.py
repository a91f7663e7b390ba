"""Uploads over HTTP, on a real socket: images and archives as the source of a job."""

import io
import socket
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.auth import create_key
from server.app import create_app
from server.engine.engine import Engine
from server.jobs import queue, upload_parts
from server.jobs.job_start import update_job
from server.settings import Settings
from tests.server.api.jobs.job_client import connect_server, get_job, list_results, start_job, wait_for_end
from tests.server.api.problem_checks import check_problem
from tests.server.helpers import TIMEOUT, serve_app, wait_until

ZIP = {"Content-Type": "application/zip"}


def send(client: httpx.Client, files: dict[str, bytes], path: str = "/v1/uploads") -> httpx.Response:
    return client.post(path, files=[("files", (name, data)) for name, data in files.items()])


def upload(client: httpx.Client, files: dict[str, bytes]) -> dict[str, Any]:
    response = send(client, files)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/uploads/{answer['id']}"
    return answer


def make_zip(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def make_tar(files: dict[str, bytes], mode: str) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def list_leftovers(folder: Path) -> list[str]:
    return [path.name for path in (folder / "uploads").glob(".*")] if (folder / "uploads").is_dir() else []


def test_images_are_uploaded_labeled_extended_and_deleted(
    client: httpx.Client, images: dict[str, bytes], tmp_path: Path
) -> None:
    own = upload(client, {"cats/0.png": images["0.png"], "1.png": images["1.png"]})
    assert (own["images"], own["bytes"], own["notes"], own["jobs"]) == (
        *(2, len(images["0.png"]) + len(images["1.png"]), [], []),
    )
    assert own["expires"] > own["created"]
    job = start_job(client, own["source"], output="mine")
    assert job["source"] == own["source"] == f"upload:{own['id']}"
    assert wait_for_end(client, job["id"])["images"]["done"] == 2
    first = list_results(client, job["id"])
    assert [image["name"] for image in first] == ["1.png", "cats/0.png"]
    assert client.get(f"/v1/jobs/{job['id']}/images/1").content == images["0.png"]
    assert client.get(f"/v1/jobs/{job['id']}/export", params={"images": "copy"}).status_code == 200

    more = send(client, {"1.png": images["2.png"], "0.png": images["0.png"]}, f"/v1/uploads/{own['id']}")
    assert more.status_code == 200, more.text
    assert (more.json()["images"], more.json()["jobs"], more.json()["expires"]) == (4, [job["id"]], None)
    extended = client.post(f"/v1/jobs/{job['id']}/extend")
    assert extended.status_code == 200, extended.text
    assert {name: extended.json()[name] for name in ("added", "kept", "compared", "removed")} == {
        "added": 2, "kept": 2, "compared": 0, "removed": 0,
    }  # fmt: skip
    assert extended.json()["names"]["added"] == ["0.png", "1~2.png"]
    assert wait_for_end(client, job["id"])["images"]["done"] == 4
    second = list_results(client, job["id"])
    assert second[:2] == first
    assert [image["name"] for image in second[2:]] == ["0.png", "1~2.png"]
    assert second[2]["annotations"] == first[1]["annotations"]

    assert [row["id"] for row in client.get("/v1/uploads").json()["uploads"]] == [own["id"]]
    assert client.get(f"/v1/uploads/{own['id']}").json() == more.json()
    assert client.delete(f"/v1/uploads/{own['id']}").status_code == 204
    check_problem(client.get(f"/v1/uploads/{own['id']}"), 404, "not-found")
    assert client.get("/v1/uploads").json()["bytes"] == 0
    assert list_results(client, job["id"]) == second  # the labels stay
    assert (
        "there is no upload" in check_problem(client.post(f"/v1/jobs/{job['id']}/extend"), 422, "invalid-source").detail
    )
    assert list(tmp_path.glob("jobs/uploads/*")) == []


@pytest.mark.parametrize("kind", ["zip", "zip in a form", "tar", "tar.gz"])
def test_an_archive_is_read_in_place(client: httpx.Client, images: dict[str, bytes], kind: str) -> None:
    files = {"a/0.png": images["0.png"], "b/1.png": images["1.png"], "notes.txt": b"text", "a/.hidden.png": b""}
    archive = make_zip(files) if "zip" in kind else make_tar(files, "w:gz" if "gz" in kind else "w")
    if "form" in kind:
        response = send(client, {"images": archive})  # recognized by its content
    else:
        response = client.post("/v1/uploads", content=archive, headers={"Content-Type": "application/octet-stream"})
    assert response.status_code == 201, response.text
    assert response.json()["images"] == 2
    assert response.json()["notes"] == ["1 file is set aside as not images (1 .txt): notes.txt"]
    job = wait_for_end(client, start_job(client, response.json()["source"])["id"])
    assert job["images"]["done"] == 2
    assert [image["name"] for image in list_results(client, job["id"])] == ["a/0.png", "b/1.png"]


def test_an_upload_that_a_job_needs_cannot_be_deleted(client: httpx.Client, images: dict[str, bytes]) -> None:
    own = upload(client, images)
    number = start_job(client, own["source"])["id"]
    client.post(f"/v1/jobs/{number}/pause")
    if get_job(client, number)["state"] != "done":
        refused = check_problem(client.delete(f"/v1/uploads/{own['id']}"), 409, "invalid-state")
        assert f"job {number}" in refused.detail
    client.post(f"/v1/jobs/{number}/cancel")
    assert client.delete(f"/v1/uploads/{own['id']}").status_code == 204
    gone = client.post("/v1/jobs", json={"source": own["source"], "recipe": "detect"})
    assert check_problem(gone, 422, "invalid-source").field == "source"


def test_an_upload_cannot_be_deleted_while_its_job_is_extended(
    client: httpx.Client, images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = upload(client, images)
    job = wait_for_end(client, start_job(client, own["source"])["id"])
    refused: list[httpx.Response] = []

    def update_meanwhile(*args: Any) -> Any:
        refused.append(client.delete(f"/v1/uploads/{own['id']}"))
        return update_job(*args)

    monkeypatch.setattr(queue, "update_job", update_meanwhile)
    assert client.post(f"/v1/jobs/{job['id']}/extend").status_code == 200
    assert "started or extended" in check_problem(refused[0], 409, "invalid-state").detail
    assert client.delete(f"/v1/uploads/{own['id']}").status_code == 204


def test_names_lead_out_of_no_folder(client: httpx.Client, images: dict[str, bytes], tmp_path: Path) -> None:
    names = ["../../up.png", "/etc/root.png", "C:\\temp\\win.png", "a/../b.png", "é\x00\n.png", "x" * 300 + ".png"]
    names += ["file", "file/below.png", ".hidden.png", "0.png"]
    names += ["y" * 251 + ".png", f"./{'y' * 251}.png", f"file/{'a' * 200}/{'b' * 200}.png"]  # as long as names can be
    own = upload(client, dict.fromkeys(names, images["0.png"]))
    assert own["images"] == len(names) - 1
    assert own["notes"][0] == "1 hidden files were not kept, whose names begin with a dot"
    inside = {path.resolve() for path in (tmp_path / "jobs" / "uploads").rglob("*.png")}
    assert len(inside) == len(names) - 2  # `file` has no suffix
    assert all(path.is_relative_to(tmp_path / "jobs" / "uploads" / own["id"]) for path in inside)
    assert {path.name for path in inside} >= {"up.png", "root.png", "win.png", "b.png", "file_below.png"}


@pytest.mark.parametrize(
    ("files", "status", "kind", "message"),
    [
        ({"a.txt": b"text"}, 422, "invalid-source", "there are no images in it. 1 file is set aside"),
        ({"a.zip": b"PK\3\4 not really"}, 422, "invalid-source", "a.zip is not a complete zip archive"),
        ({"a.zip": make_zip({"a.txt": b""})}, 422, "invalid-source", "there are no images in it"),
        ({f"{n}.png": b"x" for n in range(5)}, 413, "too-large", "has room for 4 files"),
        ({"a.zip": make_zip({f"{n}.png": b"x" for n in range(5)})}, 413, "too-large", "at most 4 images"),
        ({"a.png": b"x" * 150_000, "b.png": b"x" * 50_500}, 413, "too-large", "has room for 200,000 bytes"),
        ({"a.tar.gz": b"\x1f\x8b" + b"\0" * 50}, 422, "invalid-source", "a.tar.gz"),
    ],
)
def test_files_that_are_refused_leave_nothing(
    shared: httpx.Client, files: dict[str, bytes], status: int, kind: str, message: str
) -> None:
    refused = check_problem(send(shared, files), status, kind)
    assert message in refused.detail
    assert "/" not in refused.detail.split("zip archive")[0].replace("and/or", "")
    assert shared.get("/v1/uploads").json() == {"uploads": [], "bytes": 0, "max_bytes": 200_000}


def test_bombs_are_refused(client: httpx.Client, tmp_path: Path) -> None:
    """Entries that overlap, and entries that expand too much, are refused as in other sources."""
    data = bytearray(make_zip({f"{n}.png": b"same" for n in range(2)}))
    first, second = (data.rfind(b"PK\1\2", 0, end) for end in (data.rfind(b"PK\1\2"), len(data)))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # both entries start at the same byte
    overlapping = client.post("/v1/uploads", content=bytes(data), headers=ZIP)
    assert "some of its entries overlap" in check_problem(overlapping, 422, "invalid-source").detail
    declared = bytearray(make_zip({f"{n}.png": b"small" for n in range(8)}))
    at = 0
    while (at := declared.find(b"PK\1\2", at)) >= 0:  # the directory says that each has 250 MB
        declared[at + 24 : at + 28] = (250_000_000).to_bytes(4, "little")
        at += 4
    expanding = client.post("/v1/uploads", content=bytes(declared), headers=ZIP)
    assert "expands to more than" in check_problem(expanding, 422, "invalid-source").detail
    assert list_leftovers(tmp_path / "jobs") == []


def test_invalid_bodies_are_refused(shared: httpx.Client) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    for content, headers, status, kind in (
        (b"{}", {"Content-Type": "application/json"}, 415, "unsupported-media-type"),
        (b"", {"Content-Type": "multipart/form-data"}, 400, "bad-body"),
        (b"", form, 400, "bad-body"),
        (b"nothing of a form", form, 400, "bad-body"),
        (part + b"cut off", form, 400, "bad-body"),
        (b"--x--\r\n", form, 422, "invalid-request"),
        (b"--x\r\n" + b"a: b\r\n" * 50 + b"\r\n", form, 400, "bad-body"),
        (b"--x\r\nContent-Disposition: " + b"a" * 9000, form, 400, "bad-body"),
        (part.replace(b'; filename="a.png"', b"") + b"x\r\n--x--\r\n", form, 422, "invalid-request"),
        (part.replace(b'"files"', b'"image"') + b"x\r\n--x--\r\n", form, 422, "invalid-request"),
        (part.replace(b"a.png", b"") + b"\r\n--x--\r\n", form, 422, "invalid-request"),
        (b"\x89PNG and more", ZIP, 400, "bad-body"),
        (b"", ZIP, 400, "bad-body"),
        (b"x" * 300_000, ZIP, 413, "too-large"),
    ):
        check_problem(shared.post("/v1/uploads", content=content, headers=headers), status, kind)
    for path in ("0" * 16, "%2e%2e%2f%2e%2e", ".new-0"):
        assert shared.get(f"/v1/uploads/{path}").status_code == 404
        assert shared.delete(f"/v1/uploads/{path}").status_code in (404, 405)
    check_problem(send(shared, {"a.png": b"x"}, f"/v1/uploads/{'0' * 16}"), 404, "not-found")
    assert shared.get("/v1/uploads").json()["uploads"] == []


def test_a_body_that_is_cut_off_leaves_nothing(client: httpx.Client, tmp_path: Path) -> None:
    def send_half() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"x" * 2_000_000
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        client.post("/v1/uploads", content=send_half(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    wait_until(lambda: list_leftovers(tmp_path / "jobs") == [])
    assert client.get("/v1/uploads").json()["uploads"] == []


def test_a_body_that_stops_arriving_is_given_up(engine: Engine, tmp_path: Path) -> None:
    with connect_server(engine, tmp_path / "jobs", request_timeout=0.5) as client:
        url = client.base_url
        head = f"POST /v1/uploads HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/zip\r\n"
        with socket.create_connection((url.host, url.port), TIMEOUT) as connection:
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\nPK".encode())
            assert b" 408 " in connection.recv(1000).splitlines()[0]
        wait_until(lambda: list_leftovers(tmp_path / "jobs") == [])


def test_a_full_disk_and_a_full_server(
    engine: Engine, images: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(map(len, images.values()))
    with connect_server(engine, tmp_path / "jobs", max_upload_bytes=size + 2000) as client:
        own = upload(client, images)
        refused = check_problem(send(client, {"0.png": images["0.png"]}), 507, "insufficient-storage")
        assert "have no more room; delete some" in refused.detail
        assert client.delete(f"/v1/uploads/{own['id']}").status_code == 204
        again = upload(client, images)
        monkeypatch.setattr(upload_parts, "MIN_FREE_BYTES", 1 << 62)
        check_problem(send(client, {"0.png": b"x"}), 507, "insufficient-storage")
        assert [row["id"] for row in client.get("/v1/uploads").json()["uploads"]] == [again["id"]]
        assert list_leftovers(tmp_path / "jobs") == []


def test_leftovers_and_expired_uploads_are_removed_at_the_start(
    engine: Engine, images: dict[str, bytes], tmp_path: Path
) -> None:
    with connect_server(engine, tmp_path / "jobs") as client:
        used, unused = upload(client, images), upload(client, images)
        number = start_job(client, used["source"])["id"]
        wait_for_end(client, number)
    (tmp_path / "jobs" / "uploads" / ".new-0123" / "files").mkdir(parents=True)
    with connect_server(engine, tmp_path / "jobs") as client:  # both are new enough
        assert [row["id"] for row in client.get("/v1/uploads").json()["uploads"]] == [used["id"], unused["id"]]
        assert list_leftovers(tmp_path / "jobs") == []
    time.sleep(0.1)
    with connect_server(engine, tmp_path / "jobs", upload_days=1e-6) as client:
        wait_until(lambda: [row["id"] for row in client.get("/v1/uploads").json()["uploads"]] == [used["id"]])
        assert get_job(client, number)["state"] == "done"


def test_uploads_need_a_key_and_jobs(engine: Engine, images: dict[str, bytes], tmp_path: Path) -> None:
    key, hashed = create_key()
    with connect_server(engine, tmp_path / "jobs", key=key, api_keys=(hashed,)) as client:
        own = upload(client, images)
        del client.headers["X-API-Key"]
        for response in (
            send(client, images),
            send(client, images, f"/v1/uploads/{own['id']}"),
            client.get("/v1/uploads"),
            client.get(f"/v1/uploads/{own['id']}"),
            client.delete(f"/v1/uploads/{own['id']}"),
        ):
            check_problem(response, 401, "unauthorized")
    with serve_app(create_app(Settings(), engine)) as url, httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        check_problem(send(client, images), 403, "jobs-disabled")
