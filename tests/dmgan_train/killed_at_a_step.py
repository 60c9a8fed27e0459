"""A training that is killed in a step of its second phase, as by the system; test_fit.py starts it: STEP FIT..."""

import os
import signal
import sys

from dmgan_train.cli import main as command_line
from dmgan_train.gan import GanPhase


def main() -> None:
    step, last = GanPhase.step, int(sys.argv[1])

    def killed(phase, batch, number):
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(phase, batch, number)

    GanPhase.step = killed
    command_line(sys.argv[2:])


if __name__ == "__main__":
    main()
