# Two commands for a fresh machine: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test bench lint browser postgresql compose clean

# torch first: its own index of builds decides between CPU and CUDA; deepspeed builds against the torch that is there, and what
# its ranks share memory by is compiled now, not in the first training. Nothing of it is built for GPUs, which would take CUDA's
# compiler; what is there is found when it runs.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet torch==2.13.0 numpy ninja packaging psutil py-cpuinfo
	DS_ACCELERATOR=cpu DS_BUILD_SHM_COMM=1 $(BIN)/python -m pip install --quiet --no-build-isolation deepspeed==0.19.8
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test,pretrain]'
	$(BIN)/python -m infra.databases
	touch $@

demo: $(READY)
	$(BIN)/erase run examples/taxi.yaml

test: $(READY) browser postgresql
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

bench: $(READY) browser postgresql compose
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[templates]'
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m benchmarks.attack_table
	$(BIN)/python -m benchmarks.performance

lint: $(READY)
	$(BIN)/python -m pip install --quiet ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The report is opened in a real browser.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium >/dev/null)

# What both servers can keep their data in. Its tests start a cluster of their own.
postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || (apt-get update -qq && apt-get install -y -qq postgresql >/dev/null)

# Checks infra/compose.yaml.
compose:
	@command -v docker-compose >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends docker-compose >/dev/null)

clean:
	rm -rf $(VENV) build *.egg-info
