"""Runs ``python -m gpumand.fleet``."""

from gpumand.fleet.process import main

if __name__ == "__main__":
    main()
