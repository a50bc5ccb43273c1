"""Metrics: the list of all (`catalog`), the instruments, their samples, and the text of a scrape.

Every metric is declared here. It is counted in the module that knows the event; the totals of the
mounter's workers are in `mounter.metrics`.
"""
