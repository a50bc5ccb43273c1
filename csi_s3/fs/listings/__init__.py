"""What S3 lists of a directory: pages of names in bounded memory, corrected by changes since.

An inode has a `Directory`, a directory has listings, and a listing is a chain of pages, which are a
cache of the whole mount. It knows nothing of inodes.
"""
