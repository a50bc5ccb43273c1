"""The object store: a Protocol that the file system knows (`store`), and S3 behind it.

One module for each S3 operation, below them signing and HTTP, beside them the table of errors
(`faults`). Only this package speaks to a store. What objects mean as files is not decided here
(`fs`), nor which bucket and options a volume has (`config`).
"""
