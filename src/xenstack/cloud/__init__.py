"""The deployment: one command that brings up OpenStack in the architecture of docs/decisions."""
