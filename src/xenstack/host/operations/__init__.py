"""One plan per long verb."""
