# `make demo` and `make test` do all set-up on a fresh Debian or Ubuntu machine, then their job.
# JOBS=2 runs test files side by side; the abuse suite would rather have the machine for itself, so by default one runs.
JOBS ?= 0

.PHONY: setup demo test lint bench clean

setup:
	@bash .ci/setup

demo: setup
	@rm -rf .whet-demo
	@.venv/bin/whet --home .whet-demo demo

test: setup
	@.venv/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy core sandboxes memory feedback skills agents learners apps
	.venv/bin/lint-imports

bench: setup
	@.venv/bin/python -m benchmarks

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
