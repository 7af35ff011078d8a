"""Quadratic value features from Pauli strings, and the Gaussian attention around them."""

from attn_robotics.kernels.quantum.naive import (
    absorbed_observables,
    draw_strings,
    gaussian_attention,
    pauli_values,
    permutation_form,
)

__all__ = ['absorbed_observables', 'draw_strings', 'gaussian_attention', 'pauli_values', 'permutation_form']
