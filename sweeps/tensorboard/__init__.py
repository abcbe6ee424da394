"""Results as TensorBoard logs."""
