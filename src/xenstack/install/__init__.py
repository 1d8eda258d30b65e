"""What `./xenstack` makes sure of before a verb runs: Debian packages and a locked virtual environment.

Standard library only: it runs on the machine's own Python, where nothing is installed yet. Each part is idempotent:
what holds is seen in well under a second and left alone; what was broken off is finished by the next run.
"""

INSTALLING = "XENSTACK_INSTALLING"
"""In the environment of a verb that found no environment installed: when its command began, in seconds since 1970."""
