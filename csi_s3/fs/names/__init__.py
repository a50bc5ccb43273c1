"""What names stand for: inodes, directories and their listings, links, and how each looks to stat.

Finding and remembering, and making a name that is new. The bytes of files are below (`read`,
`write`), open files above (`files`).
"""
