"""This system beside its peers: same picture, same client, same stand-in model.

``python -m bench.peers --help`` says how to run it. The peers are installed from PyPI, each into a
virtual environment of its own under ``.venv-peers``.
"""
