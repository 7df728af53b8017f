"""`python -m handful.cli`."""

from handful.cli.main import main

main()
