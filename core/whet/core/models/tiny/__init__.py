"""The embedded model, its tokenizer and the worlds it is made for."""
