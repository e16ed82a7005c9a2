"""The command line.

`command` parses and runs it, `agent` finds the agent that it names, `show` writes the answer to
standard output, `terminal` to a terminal; `demo` is a model that needs no key.
"""
