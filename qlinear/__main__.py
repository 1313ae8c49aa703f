"""``python -m qlinear``: the command ``qlinear``."""

from qlinear.errors import run_command


def command() -> None:
    """The console script ``qlinear``."""

    def main() -> int:
        # within run_command, because a signal may come while NumPy and ONNX Runtime are loaded
        from qlinear.cli import main

        return main()

    run_command(main)


if __name__ == "__main__":
    command()
