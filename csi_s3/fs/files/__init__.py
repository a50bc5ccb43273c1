"""Open files: what open, read, write, close and fsync do, and what becomes of what was written.

Joins an inode (`names`) with the bytes of its file (`read`, `write`). A name that changes is in
`rename`.
"""
