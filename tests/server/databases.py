"""A PostgreSQL server for the tests, on a socket in a temporary folder."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

_BINARIES = [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/bin", *_BINARIES])


def have_postgres() -> bool:
    """Returns whether PostgreSQL is installed."""
    return all(shutil.which(name, path=_PATH) for name in ("initdb", "postgres"))


class Postgres:
    """Runs until `close`, and can be stopped and started again. PostgreSQL does not run as root: then it runs as
    another user."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="florist-pg-"))
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            user = next(u for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody"))
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        command = ["initdb", "-D", self.folder / "data", "-U", "florist", "-A", "trust", "-E", "UTF8", "--no-sync"]
        self._run(command, check=True)
        self._count = 0
        self.start()

    def start(self) -> None:
        """Starts the server, and waits until it accepts connections."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(shutil.which("postgres", path=_PATH) or "postgres", "-D", self.folder / "data"),
                    *("-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off"),
                ],
                stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **self._user,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self._get_url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stops the server. SIGQUIT stops it at once, as in a crash, so that it recovers at the next start."""
        self._process.send_signal(how)
        self._process.wait(60)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all processes of the server."""
        os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Stops the server, and deletes its data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self) -> str:
        """Creates a database and returns its URL."""
        self._count += 1
        with psycopg.connect(self._get_url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE florist_{self._count}")
        return self._get_url(f"florist_{self._count}")

    def _get_url(self, database: str) -> str:
        return f"postgresql://florist@/{database}?host={self.folder}"

    def _run(self, command: list[Any], **options: Any) -> None:
        command[0] = shutil.which(command[0], path=_PATH)
        subprocess.run(command, cwd=self.folder, capture_output=True, **options, **self._user)
