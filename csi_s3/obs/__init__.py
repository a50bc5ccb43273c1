"""Observability: logs, metrics, and the HTTP endpoint with the probes.

Events are counted and logged by the packages in which they happen.
"""
