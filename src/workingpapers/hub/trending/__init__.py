"""Which papers move, and why: computed from stored events, so that any moment can be replayed."""
