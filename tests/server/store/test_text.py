"""Messages without the folders of the server."""

import pytest

from server.store.text import hide_folders


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/srv/projects/p1/runs/ab/training: Not a directory", "training: Not a directory"),
        ("cannot read '/srv/my models/a/b.bin'", "cannot read 'b.bin'"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "x.py", line 3'),
        ("[Errno 2] No such file: '/a/b/'", "[Errno 2] No such file: ''"),
        ("see /var/lib/florist/florist.db, or /tmp/x/y.", "see florist.db, or y."),
        ("https://example.org/a/b stays", "https://example.org/a/b stays"),
        ("3/4 of the steps, and/or more", "3/4 of the steps, and/or more"),
        ("images/train/0.png stays", "images/train/0.png stays"),
        ("/healthz stays", "/healthz stays"),
    ],
)
def test_folders_are_hidden(message: str, shown: str) -> None:
    assert hide_folders(message) == shown


def test_a_path_of_the_client_stays() -> None:
    message = "there is no dataset '/data/mine' in /srv/florist/x"
    assert hide_folders(message, keep="/data/mine") == "there is no dataset '/data/mine' in x"
