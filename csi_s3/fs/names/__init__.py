"""What names stand for: inodes, directories, links, and how each looks to stat.

Finding and remembering, and making a name that is new. What S3 lists is below (`listings`), as
are the bytes of files (`read`, `write`); open files are above (`files`).
"""
