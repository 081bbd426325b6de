"""Sizes the model Deployments on their queues."""
