"""``python -m qlinear``: the command ``qlinear``."""

from qlinear.cli import command

if __name__ == "__main__":
    command()
