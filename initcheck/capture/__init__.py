"""Analysing the model that a user's own command trains: bootstrap and hook run in its process, ``run`` in ours."""
