"""``python -m gpumand.cli`` is ``gpumanctl``."""

from gpumand.cli import main

if __name__ == "__main__":
    main()
