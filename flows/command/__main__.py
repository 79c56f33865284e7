"""`python -m flows.command`: the same as `erase`."""

from .app import main

main()
