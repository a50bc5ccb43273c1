"""The base of the file system: keys, clocks, memory, locks, timeouts, outcomes of tasks.

Nothing here knows an inode, a file or a listing.
"""
