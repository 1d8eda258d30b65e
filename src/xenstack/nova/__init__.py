"""The Nova virt driver: verbs and nouns over one session to one host."""
