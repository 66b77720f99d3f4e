"""`python -m swanroam` is the command `swanroam`."""

from swanroam.app.cli import main

if __name__ == "__main__":
    main(prog_name="swanroam")
