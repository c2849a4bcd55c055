"""The endpoints of the shop front: what writes, and what belongs to no single app."""
