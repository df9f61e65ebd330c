"""Prints the Secrets that the manifests name: `... make_secrets | kubectl apply --server-side -f -`.

By the server's side, for otherwise an annotation keeps what was applied, values and all.

Keys and passwords are made once, in files of the folder, and printed from there ever after. `--keys-only`
leaves those with the addresses of databases and Kafka out, because they are somebody else's to make.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from deploy.local.errors import LocalDeployError
from deploy.local.programs import ADMIN_EMAIL, PROGRAMS, WEBHOOK_SECRET, make_secrets
from deploy.local.secret_files import SecretFiles

DEFAULT_NAMESPACE = "sagacity-local"
DEFAULT_FOLDER = Path(".sagacity") / "kubernetes-secrets"
DATABASE_ADDRESS = "postgresql:5432"
KAFKA_ADDRESS = "kafka:9092"
LABELS = {"app.kubernetes.io/instance": "sagacity", "app.kubernetes.io/part-of": "sagacity"}

Contents = dict[str, dict[str, str]]  # name of the Secret → key → value


def keys(files: SecretFiles) -> Contents:
    """Return the Secrets that nobody outside has to know of, made where they are missing.

    Raises:
        LocalDeployError: the folder cannot be written.
    """
    make_secrets(files)
    identities = {
        f"{name}-identity": {"identity.pem": files.text(f"identity-{name}.pem")}
        for name in ("gateway", "orchestrator", "orders")
    }
    return {
        **identities,
        "identity-keys": {"identity-keys.json": files.text("identity-keys.json")},
        "users-signing-key": {"signing-key.pem": files.text("users-signing-key.pem")},
        "users-bootstrap-admin": {"email": ADMIN_EMAIL, "password": files.text("admin-password")},
        "payments-webhook": {"secret": files.text(WEBHOOK_SECRET)},
    }


def servers(files: SecretFiles) -> Contents:
    """Return the Secrets of the servers of `overlays/local`, and how to reach them."""
    postgresql = {"admin-password": files.text("postgresql-admin-password")}
    found: Contents = {"kafka": {"bootstrap-servers": KAFKA_ADDRESS}, "postgresql": postgresql}
    for program in PROGRAMS:
        if program.database is None:
            continue
        for role, secret in (("service", "database"), ("owner", "migrations")):
            user = f"{program.database}_{role}"
            password = postgresql[f"{user}-password"] = files.text(f"{user}-password")
            dsn = f"postgresql://{user}:{password}@{DATABASE_ADDRESS}/{program.database}"
            found[f"{program.name}-{secret}"] = {"dsn": dsn}
    return found


def manifest(contents: Contents, namespace: str) -> str:
    """Return the Secrets as a List, in JSON, which is YAML too."""
    secrets = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"app.kubernetes.io/name": name, **LABELS},
            },
            "type": "Opaque",
            "stringData": values,
        }
        for name, values in sorted(contents.items())
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": secrets}, indent=2)


def main(arguments: list[str] | None = None) -> int:
    """Print the Secrets; return 0, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m deploy.k8s.make_secrets", description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where they are kept")
    parser.add_argument("--namespace", default=DEFAULT_NAMESPACE)
    parser.add_argument("--keys-only", action="store_true", help="without those of databases and Kafka")
    options = parser.parse_args(arguments)
    files = SecretFiles(options.folder)
    try:
        contents = keys(files) if options.keys_only else {**keys(files), **servers(files)}
    except LocalDeployError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(manifest(contents, options.namespace) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
