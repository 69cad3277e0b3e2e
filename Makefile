# `make repro` runs the pipeline, `make test` the tests; each sets up its own .venv first. Nothing needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On a machine without a GPU, PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" saves several GB.
PIP_ARGS ?=
# Material's notice of its successor would look like a warning of ours.
export NO_MKDOCS_2_WARNING := 1

.PHONY: repro demo test check bench docs clean

repro: $(VENV)/.installed
	$(BIN)/python -m stages.check
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@echo "Results: $(CURDIR)/reports/index.html (open it in a browser)"
	@[ -z "$$(git status --porcelain -- dvc.lock reports 2> /dev/null)" ] || echo "Git sees changes: dvc.lock names this run's \
	results, and reports/ has its seconds, costs and last digits. Keep: git add dvc.lock reports. Drop: git checkout reports"

# The whole way on tiny models, in a folder for temporary files: the checkout stays as it is.
demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

# A process takes whole files of tests, one after the other, and one core: two that use all cores slow each other down.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports
	for file in params.yaml examples/*.yaml; do $(BIN)/python -m stages.check --params $$file || exit; done
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc stage list > /dev/null
	$(BIN)/python -m tests.stable_ids
	$(BIN)/mkdocs build --strict

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev,docs]"
	touch $@

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed

# The site of README.md, docs/ and the docstrings, in site/; broken links fail. Nothing is fetched.
docs: $(VENV)/.installed
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .work site
