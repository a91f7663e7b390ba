"""Labels a folder by a job of the server: `python examples/label_folder.py FOLDER`.

The folder must be one that the server may read (`--jobs-sources`).
"""

import os
import sys
import time
from pathlib import Path

import httpx

SERVER = os.environ.get("FLORIST_URL", "http://localhost:8000")


def main(folder: str) -> None:
    """Starts the job, waits for its end, and downloads its labels as COCO."""
    with httpx.Client(base_url=SERVER, timeout=60) as client:
        body = {"source": str(Path(folder).resolve()), "recipe": "detect"}
        job = client.post("/v1/jobs", json=body).raise_for_status().json()
        while job["state"] in ("queued", "running"):
            time.sleep(0.5)
            job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
            print(job["state"], job["images"])
        export = client.get(f"/v1/jobs/{job['id']}/export", params={"format": "coco"}).raise_for_status()
        Path("labels.zip").write_bytes(export.content)
        print(f"labels.zip: {len(export.content)} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
