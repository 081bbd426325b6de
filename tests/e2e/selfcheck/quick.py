"""A plugin of pytest: the cluster tests with short time-outs, for the small cluster."""

from tests.e2e import cluster, commands

cluster.AFTER_S = 0.5
cluster.STILL_S = 0.1
commands.PATIENCE_S = 20.0
commands.POLL_S = 0.05
