"""The program that `startup` times: one contender, one caption, one picture."""

import sys
from pathlib import Path

import msgspec

from benchmarks.contenders import Contender
from benchmarks.samplers import first_picture
from benchmarks.subject import Subject

DONE = "done"

if __name__ == "__main__":
    first_picture(
        msgspec.json.decode(sys.argv[1], type=Subject),
        msgspec.json.decode(sys.argv[2], type=Contender),
        Path(sys.argv[3]),
    )
    print(DONE, flush=True)  # noqa: T201 - what the parent waits for
