"""The cluster's API: requests as a service account, Events on pods, a node's startup taint.

The only package that uses the library `kubernetes`. Which Events are posted, and when, is decided
by the program (`node.pod_events`).
"""
