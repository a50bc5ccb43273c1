"""The mounter's metrics: what a worker counts, how it tells, and the totals of all workers.

The metrics themselves are declared in `obs.metrics.catalog`.
"""
