# Convenience only: every target is also a `python -m kdlib` command (Windows, Colab, a cluster's web portal).
PYTHON ?= python3.11
VENV ?= .venv
# Where torch comes from when the default wheel is not the one you want, for example
#   make course TORCH_INDEX=https://download.pytorch.org/whl/cpu       (no CUDA: 200 MB instead of 3 GB)
#   make course TORCH_INDEX=https://download.pytorch.org/whl/cu126     (P100 and V100)
TORCH_INDEX ?=
RUN := $(VENV)/bin/python
export PYTHONNOUSERSITE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help install course lab lint test test-all test-newest figures real bench notebooks clean
help:
	@echo "make course     the notebooks, headless       make lab      JupyterLab with the course"
	@echo "make test       the tests                      make test-all the slow rest"
	@echo "make figures    redraw the slide figures       make real     fetch real rows (needs internet)"
	@echo "make bench      speed and memory               make clean    delete runs/ and caches"

# The stamp's name holds a hash of what is installed: unchanged files install nothing a second time.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
install: $(STAMP)
$(STAMP):
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(RUN) -m pip install -q -c constraints.txt torch --index-url $(TORCH_INDEX))
	$(RUN) -m pip install -q -c constraints.txt -e ".[course,comet,lora,test]"
	$(RUN) -m pip check
	rm -f $(VENV)/.installed-*; touch $@

course: install
	$(RUN) -m kdlib course

# The address that it prints leads to notebook 00: over SSH or in WSL, paste it into a browser. Its question about Jupyter's news
# would cover a corner of the notebook.
lab: install
	@$(VENV)/bin/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements 2>/dev/null
	@echo "Opening notebook 00. If no browser opens, copy the address below that ends in a token. Stop with Ctrl-C, twice."
	$(VENV)/bin/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

test: install lint
	$(RUN) -m kdlib test

lint: install
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

test-all: install
	$(RUN) -m kdlib test --slow

# kdlib on the newest transformers and numpy, without COMET: a second environment, so that one metric holds nobody hostage.
test-newest:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install -q "torch==$$(sed -n 's/^torch==//p' constraints.txt)" "transformers>=5" "numpy>=2" -e ".[course,test]"
	.venv-newest/bin/python -m pip check
	.venv-newest/bin/python -m pytest -m "not slow and not notebook"

figures: install
	$(RUN) -m kdlib figures

real: install
	$(RUN) -m kdlib get real

bench: install
	$(RUN) -m kdlib bench

# Execute the notebooks in place under the laptop profile: what a reader on the web sees.
notebooks: install
	$(RUN) -m kdlib course --profile laptop --inplace

clean:
	rm -rf runs .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path "./.venv*" -prune -exec rm -rf {} +
