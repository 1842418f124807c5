"""``python -m gpumand.gateway`` runs the gateway."""

from gpumand.gateway.service import main

if __name__ == "__main__":
    main()
