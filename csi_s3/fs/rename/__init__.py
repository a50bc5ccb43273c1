"""rename(2), and the journal from which the next worker ends a rename that was interrupted.

All of it is copies inside the store and deletes. `files` decides what happens to a renamed file
that is being changed.
"""
