"""What an operator can ask of the cloud: one module a verb of the command line."""
