"""Learning from what happened: tips, shortcuts, corrections, errors, reformulations, what is known of a person."""
