"""`python -m wardround_simulations` is the command `wardround`."""

from wardround_simulations.cli import main

main()
