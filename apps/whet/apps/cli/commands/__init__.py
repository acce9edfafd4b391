"""One module per noun. Each imports only the standard library and typer at the top, so ``whet --help`` stays quick."""
