"""The configuration files of every service, built from the layout and the passwords; one module a project."""
