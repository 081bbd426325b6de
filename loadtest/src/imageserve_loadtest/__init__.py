"""Measures a running imageserve over HTTP; ``simulator`` simulates its autoscaler."""
