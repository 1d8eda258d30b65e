"""Pure decisions: what is allowed in which state, what a call needs."""
