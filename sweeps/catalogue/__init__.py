"""What there is to choose from, and whom to cite for it."""
