"""The command line: parse, call a noun, print."""
