"""Attention operators: a plain definition beside each fast kernel. Import them as attn_robotics.kernels."""
