"""Methods that have texts of their own written: policy gradients and their kin, one a file."""
