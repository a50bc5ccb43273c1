"""Configuration: options of volumes and commands, flags of programs, the environment.

Parsing, help, docs and schema come from one table of options (`options`). The only package that
reads the environment. Results are plain data; nothing here opens files or connections.
"""
