"""A simulation of a fleet of pods and of the controllers that scale it: `python -m benchmarks.autoscale`."""
