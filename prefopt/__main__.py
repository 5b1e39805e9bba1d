"""`python -m prefopt` equals `prefopt`."""

from prefopt.cli.app import main

if __name__ == "__main__":
    main()
