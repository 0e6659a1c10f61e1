"""What is trained for: losses and metrics of every task."""
