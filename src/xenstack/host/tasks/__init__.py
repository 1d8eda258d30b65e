"""The plan engine, its journal, and the queues that run XenAPI tasks."""
