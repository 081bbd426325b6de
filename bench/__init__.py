"""Benchmarks: what this system can do beside its first version, and beside its own model.

``python -m bench --help`` says how to run them. They start real processes on loopback and need
Linux (CPU times come from /proc), a redis-server, and the packages of ``make install``.
"""
