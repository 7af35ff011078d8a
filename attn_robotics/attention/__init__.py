"""Attention layers, one published mechanism a module (torch.nn.Module)."""
