"""Sources in S3 (moto), on a web server, and in fsspec's memory."""

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

WriteFiles = Callable[..., Path]
ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """Returns a client, and the name of a new bucket."""
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
    client, name = boto3.client("s3"), f"images-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    yield client, name
    s3fs.S3FileSystem.clear_instance_cache()


def upload(bucket: tuple[Any, str], *keys: str) -> None:
    client, name = bucket
    for key in keys:
        client.put_object(Bucket=name, Key=key, Body=key.encode())


def test_images_below_a_prefix(bucket: tuple[Any, str], read_all: ReadAll) -> None:
    upload(
        bucket, "d/b.jpg", "d/a é.png", "d/e/f.JPG", "d/../esc.jpg", "d/notes.txt", "d/.hidden/x.jpg", "d2/other.jpg"
    )
    url = f"s3://{bucket[1]}"
    expected = {
        "esc.jpg": b"d/../esc.jpg",
        "a é.png": "d/a é.png".encode(),
        "b.jpg": b"d/b.jpg",
        "e/f.JPG": b"d/e/f.JPG",
    }
    assert read_all(open_source(f"{url}/d")) == read_all(open_source(f"{url}/d/")) == expected
    assert len(open_source(url)) == 5
    assert read_all(open_source(f"{url}/d/b.jpg")) == {f"{bucket[1]}/d/b.jpg": b"d/b.jpg"}


def test_listings_have_several_pages(bucket: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    upload(bucket, *(f"{n}.jpg" for n in range(25)))
    fs = fsspec.url_to_fs(f"s3://{bucket[1]}", use_listings_cache=False)[0]
    call = fs.call_s3
    monkeypatch.setattr(fs, "call_s3", lambda *names, **arguments: call(*names, MaxKeys=10, **arguments))
    assert RemoteSource(f"s3://{bucket[1]}").names == sorted(f"{n}.jpg" for n in range(25))


def test_the_fingerprint_changes_with_the_bucket(bucket: tuple[Any, str], read_all: ReadAll) -> None:
    upload(bucket, "a.jpg", "b.jpg")
    source = open_source(f"s3://{bucket[1]}")
    assert open_source(f"s3://{bucket[1]}").fingerprint == source.fingerprint
    bucket[0].put_object(Bucket=bucket[1], Key="a.jpg", Body=b"longer than before")
    bucket[0].delete_object(Bucket=bucket[1], Key="b.jpg")
    assert open_source(f"s3://{bucket[1]}").fingerprint != source.fingerprint
    assert read_all(source) == {"a.jpg": b"longer than before", "b.jpg": SourceImageFault.MISSING}


def write_archives(folder: Path) -> dict[str, dict[str, bytes]]:
    """Writes archives, a list and a COCO file of the images in `folder`, and returns their content."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "a.jpg", "z/a.jpg")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(folder / "a.jpg", "t/a.jpg")
    (folder / "list.csv").write_text("id,file\n1,a.jpg\n2,d/b c.jpg\n")
    (folder / "coco.json").write_text('{"images": [{"file_name": "d/b c.jpg"}]}')
    both = {"a.jpg": b"a.jpg", "d/b c.jpg": b"d/b c.jpg"}
    contents = {"a.zip": {"z/a.jpg": b"a.jpg"}, "a.tar.gz": {"t/a.jpg": b"a.jpg"}}
    return contents | {"list.csv": both, "coco.json": {"d/b c.jpg": b"d/b c.jpg"}}


def test_archives_and_lists_in_a_bucket(bucket: tuple[Any, str], write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg", "d/b c.jpg")
    contents = write_archives(folder)
    for path in folder.rglob("*.*"):
        bucket[0].upload_file(str(path), bucket[1], f"set/{path.relative_to(folder).as_posix()}")
    for name, images in contents.items():
        assert read_all(open_source(f"s3://{bucket[1]}/set/{name}")) == images


def test_archives_lists_and_listings_on_a_web_server(web: str, write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg", "d/b c.jpg")
    contents = write_archives(folder)
    for name, images in contents.items():
        assert read_all(open_source(f"{web}/images/{name}?version=3")) == images
    images = {"a.jpg": b"a.jpg", "d/b c.jpg": b"d/b c.jpg"}
    assert read_all(open_source(f"{web}/images")) == read_all(open_source(f"{web}/images/")) == images
    assert read_all(open_source(f"{web}/images/d/b%20c.jpg?x=1")) == {"127.0.0.1/images/d/b c.jpg": b"d/b c.jpg"}


def test_fsspec_memory(read_all: ReadAll) -> None:
    memory, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    memory.pipe({f"{folder}/a.jpg": b"1", f"{folder}/d/b.png": b"2", f"{folder}/list.txt": b"a.jpg\nc.jpg\n"})
    assert read_all(open_source(f"memory:/{folder}")) == {"a.jpg": b"1", "d/b.png": b"2"}
    assert read_all(open_source(f"memory:/{folder}/list.txt")) == {"a.jpg": b"1", "c.jpg": SourceImageFault.MISSING}


def test_parquet_in_a_bucket(bucket: tuple[Any, str], tmp_path: Path, read_all: ReadAll) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"image": [b"1", b"2"]}), tmp_path / "t.parquet")
    bucket[0].upload_file(str(tmp_path / "t.parquet"), bucket[1], "set/data/t.parquet")
    assert read_all(open_source(f"s3://{bucket[1]}/set")) == {"data/t/00000000": b"1", "data/t/00000001": b"2"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://{}", "no images in"),
        ("s3://{}/none", "no such file, folder or bucket"),
        ("s3://{}/none.zip", "no such file, folder or bucket"),
        ("s3://no-such-bucket-at-all", "no such file, folder or bucket"),
        ("s3://no-such-bucket-at-all/a.zip", "no such file, folder or bucket"),
    ],
)
def test_a_missing_bucket_or_prefix_is_reported(bucket: tuple[Any, str], url: str, message: str) -> None:
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
        ("http://127.0.0.1:1/a.zip", "Connection refused"),
        ("http://user:secret@127.0.0.1:1/a.zip?key=secret", r"^http://127.0.0.1:1/a.zip cannot be read: [^?@]*$"),
        ("nothing://x", "Protocol not known"),
        ("gs://bucket/x", "package is missing.*gcsfs"),
        ("memory://nowhere", "no such file, folder or bucket"),
    ],
)
def test_urls_that_cannot_be_opened_are_reported(url: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(url)


def test_a_web_page_without_images_is_reported(web: str, write_files: WriteFiles) -> None:
    write_files("notes.txt")
    with pytest.raises(SourceError, match="no images"):
        open_source(f"{web}/images")
    with pytest.raises(SourceError, match="no such file"):
        open_source(f"{web}/none.zip")
