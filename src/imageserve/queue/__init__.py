"""The queue protocol: the wire format, the keys, the scripts, Redis and an in-memory twin."""
