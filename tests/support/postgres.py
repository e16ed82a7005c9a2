"""A PostgreSQL server of the tests' own, in a temporary directory, reached by a Unix socket alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOW_TO_HAVE_IT = "PostgreSQL is not installed: on Debian, `apt-get install postgresql`"


def programs() -> Path | None:
    """Find the directory with `initdb` and `postgres`, of the newest release that is installed.

    Debian has them outside of PATH.
    """
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(
        (path.parent for path in installed), default=None, key=lambda p: float(p.parent.name)
    )


@contextmanager
def server() -> Iterator[str]:
    """Start a server, and stop it at the end; gives the connection string of its database."""
    directory = programs()
    assert directory is not None, HOW_TO_HAVE_IT
    # The path of a socket is short, which those of pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="pg") as place:
        data = Path(place, "data")
        import pwd  # not on Windows, where the tests are skipped

        # PostgreSQL refuses to run as root.
        user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if user is not None:
            os.chown(place, user.pw_uid, user.pw_gid)
        settings = f"-c listen_addresses= -c unix_socket_directories={place} -c fsync=off"

        def run(program: str, *arguments: str) -> None:
            # To a file: the server that `pg_ctl` leaves running would keep a pipe open.
            with Path(place, "log").open("a+") as log:
                done = subprocess.run(
                    [str(directory / program), "-D", str(data), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=place,
                    check=False,
                    timeout=120,
                    **({} if user is None else {"user": user.pw_uid, "group": user.pw_gid}),
                )
                log.seek(0)
                assert done.returncode == 0, log.read()

        run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8")
        run("pg_ctl", "start", "--wait", "-o", settings)
        try:
            yield f"postgresql://postgres@/postgres?host={place}"
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")
