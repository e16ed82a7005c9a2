"""The command line.

`command` parses and runs it, `terminal` writes to a terminal, `demo` is a model that needs no key.
"""
