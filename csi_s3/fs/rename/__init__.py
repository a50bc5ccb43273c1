"""rename(2), and the journal from which the next worker ends a rename that was interrupted.

All of it is copies inside the store and deletes. What becomes of a file that is being changed and
is renamed is asked of `files`.
"""
