"""Ordered steps of the deployment, one file a concern."""
