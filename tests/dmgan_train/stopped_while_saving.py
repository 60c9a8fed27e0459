"""A training whose main process is told to stop again and again, and saves slowly; test_distributed.py starts two."""

import os
import signal
import sys
import time

from dmgan_train import distributed, loop
from dmgan_train.cli import main as command_line
from dmgan_train.gan import GanPhase


def main() -> None:
    step, save = GanPhase.step, loop.save_checkpoint

    def stopped(phase, batch, number):
        if distributed.is_main() and number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(phase, batch, number)

    def slow(path, state):
        if state["phase"] == "gan":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        save(path, state)

    GanPhase.step, loop.save_checkpoint = stopped, slow
    command_line(sys.argv[1:])


if __name__ == "__main__":
    main()
