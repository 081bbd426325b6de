"""Looks at a running system as an experienced operator would. Pure."""
