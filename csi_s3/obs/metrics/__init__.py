"""Metrics: the list of all (`catalog`), what counts, how counts travel, and the text of a scrape.

Everything that is counted anywhere is declared here. Who counts what is in the module that knows
it; what the mounter adds up for its workers is `mounter.metrics`.
"""
