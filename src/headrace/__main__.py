"""`python -m headrace` is the console script `headrace`; roles start each other this way."""

from headrace.app.cli import main

if __name__ == "__main__":
    main()
