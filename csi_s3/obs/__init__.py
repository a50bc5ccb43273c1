"""What a person sees of a running process: logs, metrics, and the HTTP endpoint with the probes.

The pages of docs/ that list errors and metrics are written here, too. Nothing here decides
anything: other packages say what happened.
"""
