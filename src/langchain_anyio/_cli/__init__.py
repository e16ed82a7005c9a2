"""The command line: `command` parses and runs it, `terminal` writes, `demo` is the model without a key."""
