# `make` lists the targets. Everything runs from .venv; `make setup PYTHON=python3.12` chooses the interpreter.
.DEFAULT_GOAL := help
.PHONY: help setup demo weights test test-browser nbs lab workbench clean
export PYTHON BIND PORT IDLE
# threads that wait spin for some microseconds, then sleep: twice as fast as never spinning, and kind to a busy machine
export GOMP_SPINCOUNT := 20000
READY := .venv/.ready
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): constraints.txt setup.py settings.ini
	@.ci/setup

setup: $(READY) ## make .venv from constraints.txt; nothing to do when it is there
	@echo "setup: .venv is ready"

demo: $(READY) ## train stages 1 to 3 and correct photographs; ends with a table and a report
	@.venv/bin/distortkit demo

weights: $(READY) ## train the shipped lens weights from nothing (half an hour; resumes); PHOTOS= and PANORAMAS= name folders
	@.venv/bin/distortkit weights --resume $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(PANORAMAS),--panoramas "$(PANORAMAS)") $(WEIGHTS)

test: $(READY) ## run every notebook, the laws of the house and the end-to-end tests
	@.ci/test

test-browser: $(READY) ## open every explorer in JupyterLab with Chromium, move its controls, print what was measured
	@.ci/test-browser

nbs: $(READY) ## clean every notebook and write distortkit/ from them
	@.venv/bin/nbdev_clean && .venv/bin/nbdev_export

lab: $(READY) ## open JupyterLab in nbs/
	@.venv/bin/jupyter lab --notebook-dir=nbs

workbench: $(READY) ## serve the explorers as pages without cells; BIND=, PORT= and IDLE= (minutes) as you like
	@.venv/bin/python .ci/workbench

clean: ## remove build products and caches; .venv and outputs/runs stay
	@rm -rf build dist *.egg-info .pytest_cache _docs _quarto.yml
	@find nbs distortkit tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
