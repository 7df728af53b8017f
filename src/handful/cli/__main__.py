"""`python -m handful.cli`."""

from handful.cli import main

main()
