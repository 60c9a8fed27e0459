"""Two nodes of Ray on this machine, of which one can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}

# So that a lost node is missed after two seconds, and not after half a minute.
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


class RayCluster:
    """A cluster in a process of its own, as Ray keeps much of itself in the process that starts one.

    Attributes:
        address: For RAY_ADDRESS.
    """

    def __init__(self, commands: IO[str], answers: IO[str]) -> None:
        self._commands, self._answers = commands, answers
        self.address = answers.readline().strip()

    def lose_node(self) -> None:
        """Kills the node that is not the head, without grace."""
        self._commands.write("\n")
        self._commands.flush()
        assert self._answers.readline() == "removed\n"


@contextmanager
def running_cluster(**environment: str) -> Iterator[RayCluster]:
    """Starts two nodes of one CPU each; the environment is that of all that runs on them."""
    with subprocess.Popen(
        [sys.executable, __file__],
        env=ENVIRONMENT | environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield RayCluster(process.stdin, process.stdout)
        finally:
            process.stdin.write("\n\n")
            process.stdin.close()
            process.wait(60)


def main() -> None:
    """Writes the address, and kills a node when a line comes; the next line ends it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": HEALTH}
    )
    node = cluster.add_node(num_cpus=1)
    sys.stdout.write(f"{cluster.address}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    cluster.remove_node(node, allow_graceful=False)
    sys.stdout.write("removed\n")
    sys.stdout.flush()
    sys.stdin.readline()
    cluster.shutdown()


if __name__ == "__main__":
    main()
