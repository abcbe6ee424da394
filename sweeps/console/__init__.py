"""What people read in a terminal while a command works, and tables."""
