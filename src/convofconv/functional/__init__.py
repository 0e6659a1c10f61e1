"""The mathematics on tensors alone: grids of kernels, the association, groupings, penalties; no nn.Module."""
