"""Makes the secrets of the containers: `python -m deploy.compose.make_secrets [FOLDER]`, `make secrets`.

FOLDER is meant as Compose reads SAGACITY_SECRETS: from `deploy`.

Each is a file, random, and made once: what is there is kept, for databases know the passwords that they were
made with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psycopg.conninfo import make_conninfo

from deploy.local.errors import LocalDeployError
from deploy.local.programs import PROGRAMS, make_secrets
from deploy.local.secret_files import SecretFiles

DEPLOY = Path(__file__).resolve().parents[1]
# A container's process is not who made the file, and has to read it. On the host nobody gets that far: only
# their owner may enter the folder.
FILE_MODE = 0o444
GRAFANA_PASSWORD = "grafana-admin-password"  # noqa: S105 - the name of a file
DATABASES = tuple(program.database for program in PROGRAMS if program.database)


def make_all(folder: Path) -> SecretFiles:
    """Make in `folder` what is missing of the secrets that deploy/compose.yaml names, and return them all.

    Raises:
        LocalDeployError: the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise LocalDeployError(f"the folder {folder} cannot be made: {error.strerror}") from error
    secrets = SecretFiles(folder, mode=FILE_MODE)
    make_secrets(secrets)
    secrets.text(GRAFANA_PASSWORD)
    for database in DATABASES:
        secrets.text(f"{database}_admin-password")
        for role in ("owner", "service"):
            _make_role(secrets, database, role)
    return secrets


def _make_role(secrets: SecretFiles, database: str, role: str) -> None:
    user = f"{database}_{role}"
    password = secrets.text(f"{user}-password")
    dsn = make_conninfo(host=f"{database}-database", port=5432, dbname=database, user=user, password=password)
    secrets.text(f"{user}-dsn", lambda: dsn)


def main(arguments: list[str] | None = None) -> int:
    """Make what is missing and return the exit code: 0, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m deploy.compose.make_secrets", description=main.__doc__)
    parser.add_argument("folder", nargs="?", default="secrets", help="default: %(default)s")
    given: str = parser.parse_args(arguments).folder
    if not given:
        sys.stderr.write("the folder of the secrets has an empty name\n")
        return 1
    folder = (DEPLOY / given).resolve()
    try:
        make_all(folder)
    except LocalDeployError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"the secrets are in {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
