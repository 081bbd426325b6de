"""Measures a running imageserve from outside, over HTTP alone."""
