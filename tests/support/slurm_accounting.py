"""The accounting of a Slurm of the tests: a database and a slurmdbd, both of its own.

Nothing of a MariaDB or a slurmdbd that may be installed here is touched: the database listens on a
socket in the cluster's folder and on no port.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import missing, need

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults", "sacctmgr", "sacct")


def why_no_accounting() -> str:
    """Return why no accounting can be started here; empty where it can."""
    names = missing(PROGRAMS)
    wanted = "slurmdbd, mariadb-server-core and mariadb-client-core on Debian"
    return f"not installed: {', '.join(names)} ({wanted})" if names else ""


@dataclass(frozen=True)
class Accounting:
    """Files and commands of database and slurmdbd; the cluster starts and ends both."""

    folder: Path
    """Of the cluster: slurmdbd looks for its config beside slurm.conf."""
    port: int
    """On which the controller and Slurm's commands find slurmdbd."""

    @property
    def socket(self) -> Path:
        """Where the database answers, once it does."""
        return self.folder / "mariadb.socket"

    @property
    def database(self) -> list[str]:
        """The command of the database: who asks is known by the socket, without a password."""
        return [
            need("mariadbd"), "--no-defaults", "--user=root", f"--datadir={self._data}",
            f"--socket={self.socket}", f"--pid-file={self.folder}/mariadb.pid",
            "--skip-networking", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0", "--performance-schema=OFF",
        ]  # fmt: skip

    @property
    def daemon(self) -> list[str]:
        """The command of slurmdbd."""
        return [need("slurmdbd"), "-D"]

    @property
    def environment(self) -> dict[str, str]:
        """What slurmdbd needs besides: its config can't name the socket of a database."""
        return {"MYSQL_UNIX_PORT": str(self.socket)}

    @property
    def slurm_conf(self) -> list[str]:
        """Lines of slurm.conf that make the controller ask slurmdbd what a user may have."""
        return [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={self.port}",
            f"AccountingStoragePass={self._munge}",  # munge of slurmdbd
            "AccountingStorageEnforce=associations,limits,qos",
        ]

    def write_files(self) -> None:
        """Make an empty database, and the config of slurmdbd, which nobody else may read."""
        subprocess.run(
            [
                need("mariadb-install-db"), "--no-defaults", f"--datadir={self._data}",
                "--user=root", "--auth-root-authentication-method=socket", "--skip-test-db",
            ],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        conf = self.folder / "slurmdbd.conf"
        conf.touch(mode=0o600)
        conf.write_text("\n".join(self._slurmdbd_conf()) + "\n")

    @property
    def _data(self) -> Path:
        return self.folder / "mariadb"

    @property
    def _munge(self) -> Path:
        return self.folder / "munge.socket"

    def _slurmdbd_conf(self) -> list[str]:
        return [
            "AuthType=auth/munge",
            f"AuthInfo=socket={self._munge}",
            "DbdHost=localhost",
            "DbdAddr=127.0.0.1",
            f"DbdPort={self.port}",
            "SlurmUser=root",
            f"LogFile={self.folder}/slurmdbd.log",
            f"PidFile={self.folder}/slurmdbd.pid",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",
            "StorageUser=root",
            "StorageLoc=slurm_accounting",
        ]
