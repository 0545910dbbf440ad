# The whole workbook in two commands: `make reproduce` and `make test`. Each target sets up .venv only when it is needed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PRESET ?= smoke
BIN := .venv/bin
# the first Python that runs and is 3.12 or 3.11 (a pyenv shim may exist without a version behind it)
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,12))' 2>/dev/null && { echo $$p; break; }; done)
# a JupyterLab or a test run of one's own shows no update pop-ups and asks no network
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help reproduce bench report test lab export readme

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

.venv/.ready: constraints.txt settings.ini setup.py   # not pyproject.toml: nbdev-export touches it and it names no package
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one, or name it with make PYTHON=/path/to/python"; exit 1; }
	@echo "setting up .venv with $(PYTHON): about 6 GB, three minutes on a fast line"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

reproduce: .venv/.ready ## regenerate every table and figure at `smoke` scale (PRESET=bench or paper for more)
	@$(BIN)/deepfakenb reproduce --preset $(PRESET)

bench: .venv/.ready ## the `bench` preset: three seeds with intervals; a GPU, or hours of CPU; resumes where it stopped
	@$(BIN)/deepfakenb reproduce --preset bench

report: .venv/.ready ## build the pages of the committed results: reports/bench/index.html and README.md
	@$(BIN)/python -c "from deepfakenb.report.site import build_index, build_readme; print(build_index('reports/bench')); print(build_readme('reports/bench'))"

test: .venv/.ready ## run every notebook (nbdev-test), then tests/
	@DEEPFAKENB_QUIET=1 OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 --pause 0.1
	@DEEPFAKENB_QUIET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lab: .venv/.ready ## open the workbook in JupyterLab, at its contents
	@$(BIN)/jupyter lab --notebook-dir=nbs --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate contents.ipynb

export: .venv/.ready ## write deepfakenb/ from nbs/, clean the notebooks, write README.md from nbs/index.ipynb
	@$(BIN)/nbdev-export
	@$(BIN)/nbdev-clean
	@$(MAKE) --no-print-directory readme

readme: .venv/.ready
	@$(BIN)/jupyter nbconvert --log-level=ERROR --no-input --to markdown nbs/index.ipynb --output-dir . --output README --NbConvertApp.output_files_dir=nbs/images
