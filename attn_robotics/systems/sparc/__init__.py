"""SPARC: multi-robot path planning with distance-aware attentive communication."""
