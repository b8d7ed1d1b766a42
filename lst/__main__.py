"""`python -m lst` is `lst`."""

from lst.cli.main import main

if __name__ == "__main__":
    main()
