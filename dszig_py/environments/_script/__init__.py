"""The `repl` language: a few kinds of lines, read and obeyed by a small total interpreter."""
