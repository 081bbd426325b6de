"""Simulates the autoscaler, KEDA and fixed fleets on a load; pods, queue and time are not real."""
