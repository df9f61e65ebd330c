"""What a run of the containers measured, for whoever asks for it with SAGACITY_COMPOSE_JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

VARIABLE = "SAGACITY_COMPOSE_JSON"


class Figures:
    """Figures by name, in the order in which they were told."""

    def __init__(self) -> None:
        self._figures: dict[str, Any] = {}

    def tell(self, name: str, figure: Any) -> None:
        """Note a figure; a Counter is told with what is most first."""
        self._figures[name] = dict(figure.most_common()) if isinstance(figure, Counter) else figure

    def write(self) -> None:
        """Write all of them where the environment says."""
        path = os.environ.get(VARIABLE)  # noqa: TID251 - the tests' own switch
        if path:
            Path(path).write_text(json.dumps(self._figures, indent=2) + "\n", "utf-8")
