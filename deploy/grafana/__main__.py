"""Writes the dashboards: `python -m deploy.grafana [FOLDER]`, by default deploy/grafana/dashboards."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploy.grafana.boards import BOARDS
from deploy.grafana.json_model import dashboard

FOLDER = Path(__file__).resolve().parent / "dashboards"

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for board in BOARDS:
        text = json.dumps(dashboard(board), indent=2, ensure_ascii=False)
        (folder / f"{board.name}.json").write_text(f"{text}\n", "utf-8")
