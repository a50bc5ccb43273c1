"""Observability: logs, metrics, and the HTTP endpoint with the probes.

It also generates the pages of docs/ that list errors and metrics. Events are counted and logged by
the packages in which they happen.
"""
