"""History to pictures, pages and lines on the terminal. Names load on first use, so an import costs
nothing."""

import importlib
from typing import Any

_HOME = {
    "write_report": "page",
    "Page": "document",
    "Section": "document",
    "Html": "markup",
    "bullet_list": "markup",
    "picture_grid": "markup",
    "table_html": "markup",
    "tiles": "markup",
    "Band": "traces",
    "Figure": "figure",
    "Line": "traces",
    "Marker": "traces",
    "figure_lines": "figure",
    "figure_matrix": "matrix",
    "Live": "live",
    "print_choices": "tables",
    "print_scores": "tables",
    "print_table": "tables",
    "say_bytes": "words",
    "say_count": "words",
    "say_number": "words",
    "say_score": "words",
    "say_seconds": "words",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"handful.report.{_HOME[name]}"), name)
    raise AttributeError(f"module 'handful.report' has no attribute '{name}'")
