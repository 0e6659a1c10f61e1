"""Looking inside trained networks: kernels, gradients, receptive fields, activation maps."""
