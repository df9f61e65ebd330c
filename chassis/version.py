"""Which release this is; the same as in pyproject.toml."""

from typing import Final

VERSION: Final = "0.2.0"
