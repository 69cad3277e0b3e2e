"""Stage `train`: a student from fused targets, or from the true tokens alone."""
