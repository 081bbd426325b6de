"""Looks at a running system as an experienced operator would.

``facts`` is what can be seen, the ``..._rules`` are what follows from it, ``advice`` is what to do.
All of it is pure; ``imageserve doctor`` collects the facts and prints the findings.
"""
