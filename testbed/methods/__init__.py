"""Methods that request their own texts: policy gradients and related methods, one a file."""
