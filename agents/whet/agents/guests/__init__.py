"""Programs that run inside a sandbox, alone, on its own interpreter: standard library only, JSON in and out."""
