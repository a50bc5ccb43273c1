"""The object store: the Protocol that the file system uses (`store`), and S3 behind it.

One module for each S3 operation, below them signing and HTTP; beside them the tables of errors
(`faults`) and of what stores do differently (`dialects`). Only this package sends requests to a
store. What objects mean as files is decided in `fs`, which bucket and options a volume has in
`config`.
"""
