"""`python -m handful`, and `torchrun -m handful train ...`."""

from handful.cli import main

main()
