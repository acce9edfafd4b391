"""Learners of rubrics: what good answers have, drawn from what people said (``autolibra``) or from documents."""
