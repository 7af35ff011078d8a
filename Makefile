# The two commands are `make sim` and `make test`; `make` alone lists the rest.
PYTHON ?= python3
RUN := bootstrap/run
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help prepare sim test lint format lock doctor clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

prepare: ## Install everything into this checkout (.venv, install/); does nothing twice.
	@$(PYTHON) bootstrap/prepare.py

sim: prepare ## Drive 8 simulated robots to their goals, with a picture, a video and a bag in runs/.
	@$(RUN) python bootstrap/sim.py $(SIM_ARGS)

test: prepare ## Run the whole test suite.
	@$(RUN) python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

lint: prepare ## Check style and types.
	@$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

format: prepare ## Format the code.
	@$(RUN) ruff format . && $(RUN) ruff check --fix .

lock: prepare ## Rewrite bootstrap/constraints.txt from what is installed.
	@$(RUN) python bootstrap/lock.py

doctor: prepare ## Say what this machine gives and what falls back to what.
	@$(RUN) ros2 run attn_robotics doctor

clean: ## Remove everything that was built or installed here.
	rm -rf .venv .prepare build install log
