"""Corrections over HTTP: added, imported from a job, and selected by uncertainty."""

import base64
import errno
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.engine.engine import Engine
from server.projects.image_store import ImageStore
from tests.server.api.projects.project_client import (
    check_details,
    create_box,
    create_project,
    get_json,
    post_json,
    run_job,
)
from tests.server.projects.scenes import draw_scenes


def test_corrections_can_be_forms_and_are_listed_in_pages(client: httpx.Client) -> None:
    path = create_project(client, "forms")
    (scene,) = draw_scenes(1)
    annotations = json.dumps(scene.body["annotations"])
    form = {"annotations": annotations, "name": "first.png", "author": "Ada", "complete": "false"}
    first = client.post(f"{path}/corrections", data=form, files={"image": ("first.png", scene.data)})
    assert first.status_code == 201, first.text
    assert {k: first.json()[k] for k in ("name", "author", "complete", "version", "kind", "width")} == {
        "name": "first.png", "author": "Ada", "complete": False, "version": 1, "kind": "objects", "width": 120,
    }  # fmt: skip
    second = post_json(client, f"{path}/corrections", 201, **{**scene.body, "annotations": [], "kind": "objects"})
    assert (second["version"], second["image_sha256"]) == (2, first.json()["image_sha256"])
    page = get_json(client, f"{path}/corrections", limit=1)
    assert page == {"corrections": [first.json()], "next": first.json()["id"]}
    assert get_json(client, f"{path}/corrections", after=page["next"]) == {"corrections": [second], "next": None}
    twice = client.post(f"{path}/corrections", data={"annotations": "[{"}, files={"image": ("a.png", scene.data)})
    assert check_details(twice, 422, "invalid-request")["field"] == "annotations"
    check_details(client.post(f"{path}/corrections", data=form), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("body", "kind", "field", "message"),
    [
        ({"annotations": [create_box("cat", 50, 5, 5, 40)]}, "invalid-annotations", "annotations.0", "inverted"),
        ({"annotations": [create_box("cat", 5, 5, 5, 40)]}, "invalid-annotations", "annotations.0", "no area"),
        (
            {"annotations": [create_box("cat", 1, 1, 9, 9), create_box("cat", 500, 5, 600, 40)]},
            "invalid-annotations", "annotations.1", "outside the image of 120×100",
        ),
        (
            {"annotations": [create_box("a<loc_3>b", 1, 1, 9, 9)]},
            "invalid-annotations", "annotations.0", "reserved token <loc_3>",
        ),
        ({"annotations": []}, "invalid-annotations", "annotations", "set `kind` to objects, words or captions"),
        ({"annotations": [{"kind": "circle"}]}, "invalid-request", "annotations.0", "circle"),
        ({"annotations": [create_box("cat", 1, 1, 9, 9)], "kind": "birds"}, "invalid-request", "kind", "objects"),
        ({"image": "AAAA", "annotations": [create_box("cat", 1, 1, 9, 9)]}, "invalid-image", "image", "not an image"),
        ({"image": "%", "annotations": [create_box("cat", 1, 1, 9, 9)]}, "invalid-image", "image", "base64"),
        ({"image": None, "annotations": [create_box("cat", 1, 1, 9, 9)]}, "invalid-request", "image", "send the image"),
        ({"annotations": [], "color": 1}, "invalid-request", "color", "no such field"),
    ],
)  # fmt: skip
def test_an_invalid_correction_is_refused(
    client: httpx.Client, idle: str, body: dict[str, Any], kind: str, field: str, message: str
) -> None:
    response = client.post(f"{idle}/corrections", json={"image": next(draw_scenes(1)).body["image"], **body})
    details = check_details(response, 422, kind)
    assert details["field"] == field
    assert message in details["detail"]
    assert get_json(client, f"{idle}/corrections")["corrections"] == []


def test_uncertain_images_of_a_job_are_corrected_next(engine: Engine, tmp_path: Path) -> None:
    with run_job(engine, tmp_path, 4) as (client, images, job):
        project = create_project(client, "uncertain")
        results = {row["name"]: row for row in get_json(client, f"/v1/jobs/{job}/results")["images"]}
        page = get_json(client, f"{project}/next-images", job=job, count=2)
        assert (len(page["images"]), page["uncorrected"]) == (2, 4)
        everything = get_json(client, f"{project}/next-images", job=job)["images"]
        assert everything[:2] == page["images"]
        uncertainties = [row["uncertainty"] for row in everything]
        assert uncertainties == sorted(uncertainties, reverse=True)
        for row in everything:
            assert row == {**results[row["name"]], "uncertainty": row["uncertainty"], "holdout": row["holdout"]}

        first = everything[0]
        file = client.get(f"/v1/jobs/{job}/images/{first['position']}")
        assert file.content == (images / first["name"]).read_bytes()
        body = {
            "image": base64.b64encode(file.content).decode(),
            "annotations": [label["annotation"] for label in first["annotations"] if label["parent"] is None],
            "kind": "objects",
        }
        corrections = post_json(client, f"{project}/corrections", 201, **body)
        assert (corrections["image_sha256"], corrections["holdout"]) == (first["sha256"], first["holdout"])
        assert get_json(client, f"{project}/next-images", job=job) == {
            "images": everything[1:],
            "uncorrected": 3,
            "waiting": 0,
        }
        caption = {"image": body["image"], "annotations": [{"kind": "text", "label": "a scene"}]}
        post_json(client, f"{project}/corrections", 201, **caption)
        assert client.delete(f"{project}/corrections/{corrections['id']}").status_code == 200
        # The image has a caption, which does not train the task of the project.
        assert get_json(client, f"{project}/next-images", job=job)["images"] == everything
        assert (
            "no job 77"
            in check_details(client.get(f"{project}/next-images", params={"job": 77}), 404, "not-found")["detail"]
        )
        check_details(client.get("/v1/projects/77/next-images", params={"job": job}), 404, "not-found")
        assert check_details(client.get(f"{project}/next-images"), 422, "invalid-request")["field"] == "job"
        check_details(client.get(f"{project}/next-images", params={"job": job, "count": 0}), 422, "invalid-request")


def test_annotations_of_a_job_are_imported_without_changes(engine: Engine, tmp_path: Path) -> None:
    with run_job(engine, tmp_path, 3) as (client, _, job):
        project = create_project(client, "taken")
        labels = {row["name"]: row["annotations"] for row in get_json(client, f"/v1/jobs/{job}/results")["images"]}
        labeled = {name for name, own in labels.items() if own}
        assert post_json(client, f"{project}/corrections/job", job=job, author="Ada") == {"images": len(labeled)}
        rows = get_json(client, f"{project}/corrections")["corrections"]
        assert {row["name"] for row in rows} == labeled
        assert all(len(row["annotations"]) == len(labels[row["name"]]) and row["author"] == "Ada" for row in rows)


def test_a_withdrawn_correction_is_neither_trained_on_nor_counted(client: httpx.Client) -> None:
    path = create_project(client, "withdrawn", holdout_share=0.001)
    (scene,) = draw_scenes(1)
    first = post_json(client, f"{path}/corrections", 201, **scene.body)
    assert first["withdrawn"] is False
    assert get_json(client, path)["images"] == 1
    response = client.delete(f"{path}/corrections/{first['id']}")
    assert response.status_code == 200, response.text
    withdrawn = response.json()
    assert (withdrawn["version"], withdrawn["withdrawn"], withdrawn["annotations"]) == (2, True, [])
    assert {key: withdrawn[key] for key in ("image_sha256", "kind", "holdout")} == {
        key: first[key] for key in ("image_sha256", "kind", "holdout")
    }
    assert get_json(client, f"{path}/corrections")["corrections"] == [first, withdrawn]
    assert get_json(client, path)["images"] == 0
    refused = client.post(f"{path}/runs", json={"steps": 1})
    assert "of 0 corrected images" in check_details(refused, 409, "no-training-data")["detail"]
    again = client.delete(f"{path}/corrections/{withdrawn['id']}")
    assert "counts as not corrected" in check_details(again, 409, "invalid-state")["detail"]
    check_details(client.delete(f"{path}/corrections/{10**6}"), 404, "not-found")
    assert post_json(client, f"{path}/corrections", 201, **scene.body)["version"] == 3


def test_a_full_disk_is_reported(client: httpx.Client, idle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ImageStore, "add_image", full)
    response = client.post(f"{idle}/corrections", json=next(draw_scenes(1)).body)
    assert "No space left on device" in check_details(response, 507, "insufficient-storage")["detail"]
