"""Terminal output of commands: progress displays, messages, tables."""
