"""Gaze shifts as people make them: target selection, motor model, learned motion, score (a reconstruction)."""
