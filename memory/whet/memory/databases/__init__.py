"""The databases a store can lie in; each is a ``Database`` and loaded when it is opened."""
