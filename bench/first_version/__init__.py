"""The first version of this system, to measure against. Its faults are on purpose: README.md."""
