#!/usr/bin/env python3
"""Hold the analog arrays against CrossSim and AIHWKIT: scripts/simulators.py --crosssim DIR"""

from qlinear.errors import run_command
from study.simulators import main

if __name__ == "__main__":
    run_command(main)
