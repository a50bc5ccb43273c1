"""What all of the file system stands on: keys, clocks, memory, locks, waiting, outcomes of tasks.

Nothing here knows an inode, a file or a listing.
"""
