from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from dmgan_runtime.backends.native_output import native_output

SAYS = """
import ctypes, os, sys
from dmgan_runtime.backends.native_output import native_output
libc = ctypes.CDLL(None)
print("python before")
libc.printf(b"c before\\n")
with native_output() as said:
    libc.printf(b"caught\\nin  two lines\\n")
    heard = said()
print("heard:", heard)
libc.printf(b"c after\\n")
"""


def test_what_c_prints_is_caught_and_the_rest_keeps_its_place() -> None:
    made = subprocess.run([sys.executable, "-u", "-c", SAYS], capture_output=True, text=True, check=True)
    assert made.stdout.split("\n") == ["python before", "c before", "heard: caught in two lines", "c after", ""]


def test_an_error_gives_the_output_back(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with native_output():
            ctypes.CDLL(None).puts(b"caught")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    ctypes.CDLL(None).puts(b"free")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "free\n"


def test_a_process_without_an_output_goes_on() -> None:
    script = "from dmgan_runtime.backends.native_output import native_output\nwith native_output() as said: said()"
    closed = f'exec "{sys.executable}" -c "{script}" >&-'
    assert subprocess.run(["/bin/sh", "-c", closed], check=False).returncode == 0


def test_threads_give_the_standard_output_back() -> None:
    program = """
import os, threading
from dmgan_runtime.backends.native_output import native_output

def exchange():
    for _ in range(200):
        with native_output():
            pass

threads = [threading.Thread(target=exchange) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("here")
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout == "here\n"
