"""`python -m benchmarks`: its commands."""

from __future__ import annotations

import click

from benchmarks.latency import latency
from benchmarks.memory import memory
from benchmarks.outputs import outputs
from benchmarks.report import plot, table
from benchmarks.size import size
from benchmarks.startup import startup
from benchmarks.throughput import throughput
from benchmarks.training_step import training

CONTEXT = {"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT)
def main() -> None:
    """Measure dmgan against what a user would pick instead, and write JSON, a table and a plot."""


for command in (latency, throughput, startup, memory, size, training, outputs, table, plot):
    main.add_command(command)
