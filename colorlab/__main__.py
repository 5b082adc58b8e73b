"""Let `python -m colorlab` do what the `colorlab` command does."""

from colorlab.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
