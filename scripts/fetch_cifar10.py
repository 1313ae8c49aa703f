#!/usr/bin/env python3
"""Download CIFAR-10: python scripts/fetch_cifar10.py --data-dir DIR"""

from qlinear.errors import run_command
from study.fetch import main

if __name__ == "__main__":
    run_command(main)
