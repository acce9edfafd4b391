"""The back ends: each shuts a box in its own way and starts the same zygote in it."""
