"""How Redis is reached: directly, behind Sentinel, on a cluster."""
