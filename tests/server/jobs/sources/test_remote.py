"""Against a real S3 server, a real web server, and fsspec's memory."""

import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from server.jobs.sources import ImageSource, SourceError, SourceImageFault, open_source
from server.jobs.sources.remote import RemoteSource

Fill = Callable[..., Path]
Read = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """A client, and the name of a bucket of its own."""
    boto3, s3fs = pytest.importorskip("boto3"), pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client, name = boto3.client("s3"), f"pictures-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    yield client, name
    s3fs.S3FileSystem.clear_instance_cache()


def put(bucket: tuple[Any, str], *keys: str) -> None:
    client, name = bucket
    for key in keys:
        client.put_object(Bucket=name, Key=key, Body=key.encode())


def test_pictures_below_a_prefix(bucket: tuple[Any, str], read: Read) -> None:
    put(bucket, "d/b.jpg", "d/a é.png", "d/e/f.JPG", "d/../esc.jpg", "d/notes.txt", "d/.hidden/x.jpg", "d2/other.jpg")
    url = f"s3://{bucket[1]}"
    expected = {
        "esc.jpg": b"d/../esc.jpg",
        "a é.png": "d/a é.png".encode(),
        "b.jpg": b"d/b.jpg",
        "e/f.JPG": b"d/e/f.JPG",
    }
    assert read(open_source(f"{url}/d")) == read(open_source(f"{url}/d/")) == expected
    assert len(open_source(url)) == 5
    assert read(open_source(f"{url}/d/b.jpg")) == {f"{bucket[1]}/d/b.jpg": b"d/b.jpg"}


def test_more_than_a_page(bucket: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, *(f"{n}.jpg" for n in range(25)))
    fs = fsspec.url_to_fs(f"s3://{bucket[1]}", use_listings_cache=False)[0]
    call = fs.call_s3
    monkeypatch.setattr(fs, "call_s3", lambda *names, **given: call(*names, MaxKeys=10, **given))
    assert RemoteSource(f"s3://{bucket[1]}").names == sorted(f"{n}.jpg" for n in range(25))


def test_the_fingerprint_tells_a_change(bucket: tuple[Any, str], read: Read) -> None:
    put(bucket, "a.jpg", "b.jpg")
    source = open_source(f"s3://{bucket[1]}")
    assert open_source(f"s3://{bucket[1]}").fingerprint == source.fingerprint
    bucket[0].put_object(Bucket=bucket[1], Key="a.jpg", Body=b"longer than it was")
    bucket[0].delete_object(Bucket=bucket[1], Key="b.jpg")
    assert open_source(f"s3://{bucket[1]}").fingerprint != source.fingerprint
    assert read(source) == {"a.jpg": b"longer than it was", "b.jpg": SourceImageFault.MISSING}


def archives(folder: Path) -> dict[str, dict[str, bytes]]:
    """Archives, a list and a COCO file of pictures that lie in `folder`, and what they hold."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "a.jpg", "z/a.jpg")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(folder / "a.jpg", "t/a.jpg")
    (folder / "list.csv").write_text("id,file\n1,a.jpg\n2,d/b c.jpg\n")
    (folder / "coco.json").write_text('{"images": [{"file_name": "d/b c.jpg"}]}')
    both = {"a.jpg": b"a.jpg", "d/b c.jpg": b"d/b c.jpg"}
    held = {"a.zip": {"z/a.jpg": b"a.jpg"}, "a.tar.gz": {"t/a.jpg": b"a.jpg"}}
    return held | {"list.csv": both, "coco.json": {"d/b c.jpg": b"d/b c.jpg"}}


def test_archives_and_lists_in_a_bucket(bucket: tuple[Any, str], fill: Fill, read: Read) -> None:
    folder = fill("a.jpg", "d/b c.jpg")
    held = archives(folder)
    for path in folder.rglob("*.*"):
        bucket[0].upload_file(str(path), bucket[1], f"set/{path.relative_to(folder).as_posix()}")
    for name, pictures in held.items():
        assert read(open_source(f"s3://{bucket[1]}/set/{name}")) == pictures


def test_archives_lists_and_listings_on_a_web_server(web: str, fill: Fill, read: Read) -> None:
    folder = fill("a.jpg", "d/b c.jpg")
    held = archives(folder)
    for name, pictures in held.items():
        assert read(open_source(f"{web}/pictures/{name}?version=3")) == pictures
    pictures = {"a.jpg": b"a.jpg", "d/b c.jpg": b"d/b c.jpg"}
    assert read(open_source(f"{web}/pictures")) == read(open_source(f"{web}/pictures/")) == pictures
    assert read(open_source(f"{web}/pictures/d/b%20c.jpg?x=1")) == {"127.0.0.1/pictures/d/b c.jpg": b"d/b c.jpg"}


def test_memory(read: Read) -> None:
    memory, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    memory.pipe({f"{folder}/a.jpg": b"1", f"{folder}/d/b.png": b"2", f"{folder}/list.txt": b"a.jpg\nc.jpg\n"})
    assert read(open_source(f"memory:/{folder}")) == {"a.jpg": b"1", "d/b.png": b"2"}
    assert read(open_source(f"memory:/{folder}/list.txt")) == {"a.jpg": b"1", "c.jpg": SourceImageFault.MISSING}


def test_parquet_in_a_bucket(bucket: tuple[Any, str], tmp_path: Path, read: Read) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"image": [b"1", b"2"]}), tmp_path / "t.parquet")
    bucket[0].upload_file(str(tmp_path / "t.parquet"), bucket[1], "set/data/t.parquet")
    assert read(open_source(f"s3://{bucket[1]}/set")) == {"data/t/00000000": b"1", "data/t/00000001": b"2"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://{}", "no pictures in"),
        ("s3://{}/none", "no such file, folder or bucket"),
        ("s3://{}/none.zip", "no such file, folder or bucket"),
        ("s3://no-such-bucket-at-all", "no such file, folder or bucket"),
        ("s3://no-such-bucket-at-all/a.zip", "no such file, folder or bucket"),
    ],
)
def test_what_is_not_in_a_bucket(bucket: tuple[Any, str], url: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(url.format(bucket[1]))


@pytest.mark.parametrize("path", ["", "/a.zip", "/d/"])
def test_s3_without_credentials(bucket: tuple[Any, str], monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceError, match="no credentials; for s3:// set AWS_ACCESS_KEY_ID"):
        open_source(f"s3://{bucket[1]}{path}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/a.zip", "Connect call failed"),
        ("http://user:secret@127.0.0.1:1/a.zip?key=secret", r"^http://127.0.0.1:1/a.zip cannot be read: [^?@]*$"),
        ("nothing://x", "Protocol not known"),
        ("gs://bucket/x", "package is missing.*gcsfs"),
        ("memory://nowhere", "no such file, folder or bucket"),
    ],
)
def test_urls_that_lead_nowhere(url: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(url)


def test_a_web_page_without_pictures(web: str, fill: Fill) -> None:
    fill("notes.txt")
    with pytest.raises(SourceError, match="no pictures"):
        open_source(f"{web}/pictures")
    with pytest.raises(SourceError, match="no such file"):
        open_source(f"{web}/none.zip")
