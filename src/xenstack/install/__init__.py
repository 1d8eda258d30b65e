"""What `./xenstack` makes sure of before a verb runs: Debian packages and a locked virtual environment.

Standard library only: it runs on the machine's own Python, where nothing is installed yet. Each part is idempotent:
what holds is seen in well under a second and left alone; what was broken off is finished by the next run.
"""
