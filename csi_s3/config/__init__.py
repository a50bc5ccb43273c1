"""What was asked for: options of volumes and commands, flags of programs, the environment.

One table of options (`options`) makes parsing, help, docs and schema. The only package that reads
the environment. It opens nothing and knows no store: results are plain data.
"""
