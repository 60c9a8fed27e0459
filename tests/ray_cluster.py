"""Two nodes of Ray on this machine: writes their address, and kills one when a line comes; the next line ends it."""

import sys

from ray.cluster_utils import Cluster

# So that a lost node is missed after two seconds, and not after half a minute.
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}

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
