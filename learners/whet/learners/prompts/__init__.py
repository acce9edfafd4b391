"""Learners of prompts: one loop of select, draft, admit, assess and choose; a method says what happens at each."""
