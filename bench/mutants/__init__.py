"""Mutation tests: small faults are put into the core, and the tests must notice them."""
