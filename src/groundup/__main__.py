"""`python -m groundup`, which is what torchrun starts."""

from groundup.cli import main

if __name__ == "__main__":
    main()
