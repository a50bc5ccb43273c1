"""The bytes of one file that is being changed, until the store has them.

Where they are (memory, spool, the stored version), in which parts they leave, and what lost answers
mean. Which name and inode the file has, and when it is stored, is decided above (`files`).
"""
