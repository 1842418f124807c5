"""``python -m gpumand`` runs the daemon."""

from gpumand.daemon.daemon import main

if __name__ == "__main__":
    main()
