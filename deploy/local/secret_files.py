"""Secrets of a local deployment: a file each, readable by its owner only, made when first asked for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from deploy.local.errors import LocalDeployError


class SecretFiles:
    """The secrets in one folder, which is made where it is missing and which nobody but its owner may enter.

    Args:
        folder: where they are.
        mode: of new files; containers that a file is mounted into need more than the owner's rights.
    """

    def __init__(self, folder: Path, *, mode: int = 0o600) -> None:
        self.folder = folder
        self._mode = mode

    def path(self, name: str) -> Path:
        """Return where the secret `name` lies, whether it exists yet or not."""
        return self.folder / name

    def text(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> str:
        """Return the secret `name`; where there is none yet, make it, store it and return it.

        Raises:
            LocalDeployError: the folder cannot be written, or the file is empty.
        """
        path = self.path(name)
        try:
            if not path.exists():
                self.write(name, make())
            text = path.read_text("utf-8")
        except OSError as error:
            raise LocalDeployError(
                f"the secret {path} cannot be read or written: {error.strerror}"
            ) from error
        if not text:
            raise LocalDeployError(f"the secret {path} is empty; delete the file and start again")
        return text

    def write(self, name: str, text: str) -> Path:
        """Store `text` as the secret `name`, in one step, and return the file's path."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path(name)
        # Whole or not at all: a half-written key would break every later start.
        draft = path.with_name(f".{name}.{os.getpid()}.new")
        with os.fdopen(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            os.fchmod(file.fileno(), self._mode)
            file.write(text)
        draft.replace(path)
        return path
