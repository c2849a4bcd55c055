"""The catalog every other app stands on, and the shop front above them all."""
