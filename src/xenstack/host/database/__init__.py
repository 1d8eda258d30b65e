"""XenAPI objects in memory, written through to SQLite, with the generations that events are made of."""
