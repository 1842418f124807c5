"""Entry point of ``python -m gpumand.cli``, which is the same as ``gpumanctl``."""

from gpumand.cli import main

if __name__ == "__main__":
    main()
