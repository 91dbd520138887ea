"""Texts: sampled under interventions, and rated by words, by how strange they are, and by judges."""
