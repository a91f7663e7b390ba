"""A PostgreSQL server of our own, on a socket in a temporary folder."""

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
    return all(shutil.which(name, path=_PATH) for name in ("initdb", "postgres"))


class Postgres:
    """Runs until `close`; may be stopped and started between. Refuses root: then somebody else runs it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="florist-pg-"))
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = next(u for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody"))
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        command = ["initdb", "-D", self.folder / "data", "-U", "florist", "-A", "trust", "-E", "UTF8", "--no-sync"]
        self._call(command, check=True)
        self._made = 0
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._running = subprocess.Popen(
                [
                    *(shutil.which("postgres", path=_PATH) or "postgres", "-D", self.folder / "data"),
                    *("-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off"),
                ],
                stdout=log, stderr=log, cwd=self.folder, **self._user,
            )  # fmt: skip
        ends = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < ends, (self.folder / "log").read_text()
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: at once, as in a crash, so that it recovers when it starts again."""
        self._running.send_signal(how)
        self._running.wait(60)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql://florist@/{database}?host={self.folder}"

    def database(self) -> str:
        """The URL of a new one."""
        self._made += 1
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE florist_{self._made}")
        return self.url(f"florist_{self._made}")

    def _call(self, command: list[Any], **options: Any) -> None:
        command[0] = shutil.which(command[0], path=_PATH)
        subprocess.run(command, cwd=self.folder, capture_output=True, **options, **self._user)
