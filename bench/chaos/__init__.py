"""Attacks on the whole service under load, and what became of every request."""
