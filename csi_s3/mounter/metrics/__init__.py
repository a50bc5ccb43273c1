"""The mounter's metrics: what a worker counts, how it sends that, and the totals of all workers.

The metrics themselves are declared in `obs.metrics.catalog`.
"""
