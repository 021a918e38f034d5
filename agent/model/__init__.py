"""Values and pure rules that both halves share. Imports nothing of the rest."""
