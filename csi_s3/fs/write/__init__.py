"""A file that is being changed, until the store has its bytes: begin with `dirty_file`.

Where the bytes are (memory, spool, stored version), in which parts they are sent, and what follows
each answer of the store. The names of a file, and when it is stored, are decided in `files`.
"""
