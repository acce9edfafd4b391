"""The methods that learn prompts, one file each."""
