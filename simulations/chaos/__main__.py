"""``python -m simulations.chaos``."""

from simulations.chaos.cli import main

if __name__ == "__main__":
    main()
