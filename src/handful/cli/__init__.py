"""The command line; help must not wait for heavy imports, so each command imports what it runs."""

from handful.cli.flags import app
from handful.cli.main import main

__all__ = ["app", "main"]
