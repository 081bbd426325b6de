"""The autoscaler sizes real worker processes under real load, beside what the simulator says."""
