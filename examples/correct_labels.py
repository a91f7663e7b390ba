"""Corrects the labels of a folder in a project: `python examples/correct_labels.py FOLDER [PROJECT [COUNT]]`.

Without the name of a project, it creates one. COUNT (3) is the number of images to correct.
The folder must be one that the server may read (`--jobs-sources`). A real project shows the images to a person;
this script keeps all labels but those of a low score, or of a class that is not one of the project's.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

SERVER = os.environ.get("FLORIST_URL", "http://localhost:8000")


def label_all(client: httpx.Client, folder: str) -> int:
    """Labels the folder; returns the job's ID."""
    body = {"source": str(Path(folder).resolve()), "recipe": "detect"}
    job = client.post("/v1/jobs", json=body).raise_for_status().json()
    while job["state"] in ("queued", "running"):
        time.sleep(0.5)
        job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
    return int(job["id"])


def correct(traces: list[dict[str, Any]], classes: list[str]) -> list[dict[str, Any]]:
    """Returns the annotations that stay. Put a person here."""
    annotations = [trace["annotation"] for trace in traces]
    certain = [annotation for annotation in annotations if (annotation["score"] or 0) >= 0.3]
    return [annotation for annotation in certain if not classes or annotation["label"] in classes]


def find_project(client: httpx.Client, name: str) -> dict[str, Any]:
    """Returns the project with this name, which it creates if there is none."""
    projects: list[dict[str, Any]] = client.get("/v1/projects").raise_for_status().json()["projects"]
    found = [project for project in projects if project["name"] == name]
    if not found:
        found = [client.post("/v1/projects", json={"name": name, "tasks": ["<OD>"]}).raise_for_status().json()]
    return found[0]


def main(folder: str, name: str = "", count: str = "3") -> None:
    """Labels the folder, fetches the images with the most expected errors, and sends their corrections."""
    with httpx.Client(base_url=SERVER, timeout=60) as client:
        job = label_all(client, folder)
        name = name or f"example-{time.time_ns()}"
        project = find_project(client, name)
        query = {"job": job, "count": int(count)}
        found = client.get(f"/v1/projects/{project['id']}/next-images", params=query).raise_for_status().json()
        for image in found["images"]:
            data = client.get(f"/v1/jobs/{job}/images/{image['position']}").raise_for_status().content
            kept = correct(image["annotations"], project["classes"])
            form = {"annotations": json.dumps(kept), "kind": "objects"}
            url = f"/v1/projects/{project['id']}/corrections"
            answer = client.post(url, files={"image": data}, data=form)
            if answer.is_error:
                sys.exit(f"{image['name']}: {answer.json()['detail']}")
            print(f"{image['name']}: {image['uncertainty']:.2f} expected errors")
        print(f"{len(found['images'])} corrections in project {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
