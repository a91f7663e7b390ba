"""What a job produces, over HTTP: datasets, the summary page, and image files."""

import io
import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import httpx

from labels.formats import FORMATS
from server.engine.engine import Engine
from tests.server.api.jobs.job_client import (
    COUNT,
    connect_server,
    list_results,
    start_job,
    wait_for_end,
)
from tests.server.api.problem_checks import check_problem
from tests.server.helpers import wait_until


def test_a_job_can_be_exported_in_every_format(client: httpx.Client, images: Path) -> None:
    number = start_job(client, images, output="mine")["id"]
    wait_for_end(client, number)
    for name, format in FORMATS.items():
        response = client.get(f"/v1/jobs/{number}/export", params={"format": name})
        assert response.status_code == 200, response.text
        ending = format.suffix or ".zip"
        assert response.headers["content-disposition"] == f'attachment; filename="mine-{name}{ending}"'
        if format.suffix:
            assert len(response.text.splitlines()) >= COUNT
        else:
            with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
                assert archive.testzip() is None
                assert len(archive.namelist()) >= 1
                assert all(entry.startswith(f"mine-{name}/") for entry in archive.namelist())
    response = client.get(f"/v1/jobs/{number}/export", params={"images": "copy"})
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        copies = [entry for entry in archive.namelist() if entry.endswith("00.png")]
        assert [archive.read(copy) for copy in copies] == [(images / "00.png").read_bytes()]
    no_place = client.get(f"/v1/jobs/{number}/export", params={"format": "jsonl", "images": "copy"})
    assert check_problem(no_place, 422, "invalid-request").field == "images"
    unknown = client.get(f"/v1/jobs/{number}/export", params={"format": "psd"})
    assert "coco" in check_problem(unknown, 422, "invalid-request").detail


def test_an_export_has_the_images_that_its_tools_need(client: httpx.Client, images: Path) -> None:
    number = start_job(client, images)["id"]
    wait_for_end(client, number)

    def export(**params: str) -> zipfile.ZipFile:
        response = client.get(f"/v1/jobs/{number}/export", params=params)
        assert response.status_code == 200, response.text
        return zipfile.ZipFile(io.BytesIO(response.content))

    def count_images(archive: zipfile.ZipFile) -> int:
        return sum(name.endswith((".png", ".jpg", ".jpeg", ".webp")) for name in archive.namelist())

    count = count_images(export(format="yolo-detect"))
    assert count >= COUNT
    assert count_images(export(format="yolo-detect", images="none")) == 0
    assert count_images(export(format="coco")) == 0
    assert count_images(export(format="coco", images="copy")) == count
    tasks = export(format="label-studio", image_url="https://example.org/")
    assert count_images(tasks) == 0
    name = next(entry for entry in tasks.namelist() if entry.endswith("tasks.json"))
    assert json.loads(tasks.read(name))[0]["data"]["image"].startswith("https://example.org/")
    for params, field in (
        ({"images": "link"}, "images"),  # would lead nowhere on another machine
        ({"images": "true"}, "images"),
        ({"format": "voc", "image_url": "https://example.org/"}, "image_url"),
    ):
        refused = client.get(f"/v1/jobs/{number}/export", params=params)
        problem = check_problem(refused, 422, "invalid-request")
        assert field in (problem.field, *(error.field for error in problem.errors or ()))


def test_an_export_says_what_was_renamed_and_how_far_the_job_was(engine: Engine, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(images, own)
    (own / "00.jpg").write_bytes((own / "01.png").read_bytes())
    with connect_server(engine, tmp_path / "jobs", own) as client:
        number = start_job(client, own)["id"]
        early = json.loads(client.get(f"/v1/jobs/{number}/export").headers["x-export-report"])
        assert early["job"]["id"] == number
        assert early["job"]["unfinished"] == early["job"]["images"] - early["job"]["labeled"] - early["job"]["failed"]
        wait_for_end(client, number)
        response = client.get(f"/v1/jobs/{number}/export", params={"format": "yolo-detect", "images": "copy"})
        summary = json.loads(response.headers["x-export-report"])
        assert summary["renamed"] == 1
        assert (summary["job"]["state"], summary["job"]["unfinished"]) == ("done", 0)
        with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
            files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        report = json.loads(files[".florist"])
        assert report["renamed_examples"] == [["00.png", "00-2.png"]]
        assert report["job"] == summary["job"]
        assert files["renamed.csv"] == b"name,new_name\n00.png,00-2.png\n"
        copies = {name for name in files if name.startswith("images/train/")}
        assert {Path(name).stem for name in copies} == {
            Path(name).stem for name in files if name.startswith("labels/train/")
        }
        assert files["images/train/00-2.png"] == (own / "00.png").read_bytes()


def test_images_can_be_downloaded_by_their_position(engine: Engine, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(images, own)
    (own / "00.png").write_bytes(b"<script>alert(1)</script>")
    with connect_server(engine, tmp_path / "jobs", own) as client:
        number = start_job(client, own)["id"]
        wait_for_end(client, number)
        for row in list_results(client, number):
            shown = client.get(f"/v1/jobs/{number}/images/{row['position']}")
            assert shown.content == (own / row["name"]).read_bytes()
        broken = client.get(f"/v1/jobs/{number}/images/0")  # unchanged, and not as a web page
        assert (broken.headers["content-type"], broken.headers["x-content-type-options"]) == (
            "application/octet-stream",
            "nosniff",
        )
        behind = client.get(f"/v1/jobs/{number}/images/{len(list(own.iterdir()))}")
        assert "the first is at 0" in check_problem(behind, 404, "not-found").detail
        check_problem(client.get(f"/v1/jobs/{number}/images/-1"), 422, "invalid-request")


def test_the_summary_page_runs_only_its_own_script(engine: Engine, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "<own>"
    shutil.copytree(images, own)
    (own / "<script>alert(1)<").mkdir()
    (own / "00.png").rename(own / "<script>alert(1)<" / "script>.png")
    with connect_server(engine, tmp_path / "jobs", own) as client:
        number = start_job(client, own, output="mine")["id"]
        wait_for_end(client, number)
        response = client.get(f"/v1/jobs/{number}/summary")
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert policy.endswith("; frame-ancestors 'none'; sandbox allow-scripts")
        assert "unsafe" not in policy
        page = response.text
        assert page.count("data:image/webp;base64,") == COUNT
        assert all(message in page for message in ("mine", "seedling", "50.jpg", "&lt;own&gt;"))
        assert page.count("<script") == 2
        assert list((tmp_path / "jobs" / "exports").iterdir()) == []

        shutil.rmtree(own)
        without = client.get(f"/v1/jobs/{number}/summary").text
        assert "data:image/webp" not in without
        assert "there is no" in without


def test_exports_leave_no_files(client: httpx.Client, images: Path, tmp_path: Path) -> None:
    number = start_job(client, images)["id"]
    wait_for_end(client, number)
    client.get(f"/v1/jobs/{number}/export")
    with client.stream("GET", f"/v1/jobs/{number}/export"):
        pass  # the client disconnects before it reads anything
    wait_until(lambda: not list((tmp_path / "jobs" / "exports").iterdir()))


def test_the_classes_of_a_job_and_what_it_did_not_keep(client: httpx.Client, images: Path) -> None:
    steps = [{"id": "objects", "task": "<OD>"}]
    free = start_job(client, images, {"name": "free", "steps": steps})
    assert wait_for_end(client, free["id"])["state"] == "done"
    names = Counter(
        label["annotation"]["label"] for image in list_results(client, free["id"]) for label in image["annotations"]
    )
    kept = names.most_common(1)[0][0]
    steps.append({"id": "outlines", "task": "<REGION_TO_SEGMENTATION>", "for_each": "objects"})  # of the same objects
    recipe = {"name": "two", "ontology": {kept: [], "unicorn": []}, "steps": steps}
    job = start_job(client, images, recipe)
    assert wait_for_end(client, job["id"])["state"] == "done"
    assert client.get(f"/v1/jobs/{free['id']}/classes").json() == {
        "held": [], "classes": {}, "missing": [], "dropped": [], "dropped_labels": 0, "uncounted_images": 0,
    }  # fmt: skip
    report = client.get(f"/v1/jobs/{job['id']}/classes").json()
    assert report["classes"] == {kept: names[kept], "unicorn": 0}
    assert report["missing"] == ["unicorn"]
    dropped = {each["label"]: each["count"] for each in report["dropped"]}
    assert dropped == {name: count for name, count in names.items() if name != kept}
    assert {(each["step"], each["reason"]) for each in report["dropped"]} == {("objects", "not one of the classes")}
    assert report["dropped_labels"] == sum(dropped.values())
    check_problem(client.get("/v1/jobs/99/classes"), 404, "not-found")
